# SPDX-License-Identifier: Apache-2.0
"""Faults at random over bounces and playing: killed servers, killed hosts, broken networks; and a long soak.

`python -m tests.soak`; see `__main__.py`.
"""
