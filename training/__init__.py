# SPDX-License-Identifier: Apache-2.0
"""Builds the embedded checkpoint from nothing: data, codec, transformer, export. See README.md."""
