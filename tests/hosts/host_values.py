# SPDX-License-Identifier: Apache-2.0
"""Values that host tests share with their conftest."""

PROMPT, SEED = "strings", 7
PROMPT_ENVIRONMENT = {"DEMON_PROMPT": PROMPT, "DEMON_SEED": str(SEED)}
