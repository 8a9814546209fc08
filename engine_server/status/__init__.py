# SPDX-License-Identifier: Apache-2.0
"""`demon status` and metrics: asking servers how they are, and showing it as a table or to Prometheus."""
