# SPDX-License-Identifier: Apache-2.0
"""Write docs/lanes.md from the lane table: `python -m shared_protocol.document` in the project's root."""

from pathlib import Path

from shared_protocol.lanes import markdown_table

HEAD = """# Lanes

Made from `shared_protocol/lanes.toml`; do not edit by hand. *Class* says when a change is heard: `submission` with the next
hop, `step` at every denoising step of the hops that contain the frame, `output` in the plugin itself. In Loop mode `submission`
is heard with the next take, and `step` by the takes in flight at their next tick.

*Resolution* `hop`: one value for a hop, that of its first frame. A clip has one value for a whole window, that of its last frame,
where a turned knob latches to; but Structure, Feedback and Feedback Depth are followed frame by frame there. A structure
reference that is shorter than the music repeats: from timeline zero on in Stream mode, from the first frame on in Loop mode.

"""

if __name__ == "__main__":
    Path("docs/lanes.md").write_text(HEAD + markdown_table(), encoding="utf-8")
