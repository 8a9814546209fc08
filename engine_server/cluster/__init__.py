# SPDX-License-Identifier: Apache-2.0
"""`demon cluster`: engines on the nodes of a Ray cluster, behind one gateway. Only files named `ray_...` import Ray."""
