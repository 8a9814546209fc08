# SPDX-License-Identifier: Apache-2.0
"""The parts of an evaluation. Each module's `measure` yields the figures and listings of one part."""
