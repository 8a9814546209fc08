# SPDX-License-Identifier: Apache-2.0
"""Headless hosts for the built plugin, used by the demo and the tests. See `bounce.py`."""
