# SPDX-License-Identifier: Apache-2.0
"""The main job, shown: `make demo`."""
