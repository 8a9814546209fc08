# SPDX-License-Identifier: Apache-2.0
"""One short script per feature of the engine; see README.md."""
