# SPDX-License-Identifier: Apache-2.0
"""How engines are doing: what they report, asking them, and showing it as a table or as Prometheus metrics."""
