# SPDX-License-Identifier: Apache-2.0
"""Capture a clip in pedalboard, bounce it, and bounce it again from the saved project: `clip_session.py JSON`.

pedalboard is always offline: its first pass is the capture, each one after a reset a bounce. Results go to the folder:
capture.npy, bounce0.npy, bounce1.npy, ..., reopened.npy.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pedalboard


def main() -> None:
    job = json.loads(sys.argv[1])
    folder, source = Path(job["folder"]), np.load(job["source"])

    def run(plugin: pedalboard.VST3Plugin, block: int, name: str) -> None:
        plugin.reset()
        np.save(folder / f"{name}.npy", plugin.process(source, job["rate"], buffer_size=block, reset=False))

    plugin = pedalboard.load_plugin(job["bundle"])
    parameters = {parameter.name: parameter for parameter in plugin.parameters.values()}
    for name, proportion in job["lanes"].items():
        parameters[name].raw_value = proportion
    run(plugin, job["blocks"][0], "capture")
    for number, block in enumerate(job["blocks"]):
        run(plugin, block, f"bounce{number}")
    saved = plugin.raw_state
    del plugin
    reopened = pedalboard.load_plugin(job["bundle"])
    reopened.raw_state = saved
    run(reopened, job["blocks"][-1], "reopened")
    print(json.dumps({"state_bytes": len(saved)}), flush=True)


if __name__ == "__main__":
    main()
