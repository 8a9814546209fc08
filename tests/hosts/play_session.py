# SPDX-License-Identifier: Apache-2.0
"""Play a source through the plugin in minihost, block by block, as a DAW would: `play_session.py JSON`.

The script is what the transport does: `play`, `stopped`, `locate AT TO`, `loop FIRST STOP` (samples, all multiples of the
block) or `rhythm` (tempo and meter change at every block).
"""

from __future__ import annotations

import json
import sys
import time

import minihost
import numpy as np

RATE, BPM = 48_000, 120.0


def main() -> None:
    job = json.loads(sys.argv[1])
    source, block = np.load(job["source"]), job["block"]
    command, *numbers = job["script"].split() or ["play"]
    plugin = minihost.Plugin(job["bundle"], sample_rate=float(RATE), max_block_size=block)
    plugin.non_realtime = job["offline"]
    plugin.reset()
    if not job["offline"]:
        time.sleep(1.0)  # as in a DAW, the engine has been found before the user presses play

    blocks = int(job["seconds"] * RATE) // block
    result = np.zeros((2, blocks * block), dtype=np.float32)
    position, slowest, began = 0, 0.0, time.monotonic()
    for k in range(blocks):
        if command == "locate" and k * block == int(numbers[0]):
            position = int(numbers[1])
        if command == "loop" and position == int(numbers[1]):
            position = int(numbers[0])
        bpm, beats = (40 + 7 * k % 200, 2 + k % 6) if command == "rhythm" else (BPM, 4)
        plugin.set_transport(bpm, beats, 4, position, position / RATE * bpm / 60, command != "stopped")
        part = source[:, position : position + block]
        audio = np.ascontiguousarray(np.pad(part, ((0, 0), (0, block - part.shape[1]))))
        out = np.zeros_like(audio)
        before = time.monotonic()
        plugin.process(audio, out)
        slowest = max(slowest, time.monotonic() - before)
        result[:, k * block : (k + 1) * block] = out
        position += block
        if job["paced"]:
            time.sleep(max(0.0, began + (k + 1) * block / RATE - time.monotonic()))
    wall = time.monotonic() - began
    np.save(job["result"], result)
    plugin.close()
    print(json.dumps({"slowest_block_s": slowest, "wall_s": wall}), flush=True)


if __name__ == "__main__":
    main()
