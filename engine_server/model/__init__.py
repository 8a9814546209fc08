# SPDX-License-Identifier: Apache-2.0
"""Checkpoints, conditioning, the DiT forward and the codec; knows nothing of tracks."""
