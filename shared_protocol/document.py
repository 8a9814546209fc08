# SPDX-License-Identifier: Apache-2.0
"""Write docs/lanes.md from the lane table: `python -m shared_protocol.document` in the project's root."""

from pathlib import Path

from shared_protocol.lanes import markdown_table

HEAD = """# Lanes

Made from `shared_protocol/lanes.toml`; do not edit by hand. *Class* says when a change is heard: `submission` with the next
hop, `step` at every denoising step of the hops that contain the frame, `output` in the plugin itself.

"""

if __name__ == "__main__":
    Path("docs/lanes.md").write_text(HEAD + markdown_table(), encoding="utf-8")
