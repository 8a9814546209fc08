# SPDX-License-Identifier: Apache-2.0
"""Figures of a checkpoint: what `demon eval` prints. docs/evaluation.md defines every one of them."""
