# SPDX-License-Identifier: Apache-2.0
"""`demon doctor`: small checks of a machine, each of which says what to do. They change nothing."""
