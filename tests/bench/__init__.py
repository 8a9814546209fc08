# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of the engine on the machine at hand: `make bench`.

Every figure stands against a baseline measured in the same run, in turn with it, so that a busy machine disturbs both alike.
All of it runs on the CPU.
"""
