# SPDX-License-Identifier: Apache-2.0
"""A track's timeline and the planner that turns it into slot requests and windows; knows nothing of sockets."""
