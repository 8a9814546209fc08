# SPDX-License-Identifier: Apache-2.0
"""Play a source through the plugin in minihost, block by block, as a DAW would: `play_session.py JSON`.

Paced, it presses play when the engine has been found, as people in a DAW do: until then the transport stands.

The script is what the transport does: `play`, `stopped`, `locate AT TO`, `loop FIRST STOP` (samples, all multiples of the
block) or `rhythm` (tempo and meter change at every block). A job with `knob` turns one: at a sample of the run, a parameter's
name, its value from 0 to 1.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

import minihost
import numpy as np
from probe import read_probe

RATE, BPM = 48_000, 120.0
ENGINE_TIMEOUT_S = 30.0


def idle_until_connected(plugin: minihost.Plugin, block: int) -> None:
    """The audio runs, the transport stands."""
    probe = Path(os.environ["DEMON_PROBE_LOG"])
    silence = np.zeros((2, block), dtype=np.float32)
    deadline = time.monotonic() + ENGINE_TIMEOUT_S
    plugin.set_transport(BPM, 4, 4, 0, 0.0, False)
    while not any(line["connected"] for line in read_probe(probe)[-1:]):
        if time.monotonic() > deadline:
            raise SystemExit("the plugin found no engine")
        plugin.process(silence, np.zeros_like(silence))
        time.sleep(block / RATE)


def waits_of_this_thread() -> int:
    """How often it has given up its processor to wait; what other programs take of it does not count."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def main() -> None:
    job = json.loads(sys.argv[1])
    source, block = np.load(job["source"]), job["block"]
    command, *numbers = job["script"].split() or ["play"]
    plugin = minihost.Plugin(job["bundle"], sample_rate=float(RATE), max_block_size=block)
    plugin.non_realtime = job["offline"]
    plugin.reset()
    if job["paced"]:
        idle_until_connected(plugin, block)

    blocks = int(job["seconds"] * RATE) // block
    result = np.zeros((2, blocks * block), dtype=np.float32)
    turn_at, name, value = job.get("knob", (-1, "", 0.0))
    position, waits, began = 0, 0, time.monotonic()
    for k in range(blocks):
        if command == "locate" and k * block == int(numbers[0]):
            position = int(numbers[1])
        if command == "loop" and position == int(numbers[1]):
            position = int(numbers[0])
        if turn_at >= 0 and k == turn_at // block:
            plugin.set_param_by_name(name, value)
        bpm, beats = (40 + 7 * k % 200, 2 + k % 6) if command == "rhythm" else (BPM, 4)
        plugin.set_transport(bpm, beats, 4, position, position / RATE * bpm / 60, command != "stopped")
        part = source[:, position : position + block]
        audio = np.ascontiguousarray(np.pad(part, ((0, 0), (0, block - part.shape[1]))))
        out = np.zeros_like(audio)
        waits -= waits_of_this_thread()
        plugin.process(audio, out)
        waits += waits_of_this_thread()
        result[:, k * block : (k + 1) * block] = out
        position += block
        if job["paced"]:
            time.sleep(max(0.0, began + (k + 1) * block / RATE - time.monotonic()))
    np.save(job["result"], result)
    plugin.close()
    print(json.dumps({"waits": waits}), flush=True)


if __name__ == "__main__":
    main()
