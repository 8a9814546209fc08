# SPDX-License-Identifier: Apache-2.0
"""How fast a machine makes music: full-size models with random weights, beside what the arithmetic alone would take."""
