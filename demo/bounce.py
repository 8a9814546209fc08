# SPDX-License-Identifier: Apache-2.0
"""Bounce 30 s of real music through the plugin with two lanes drawn: `python -m demo.bounce --out out/demo`.

Starts an engine server with the embedded checkpoint, hosts the built VST3 in a headless host, and leaves source, bounce, a
picture and a receipt; then the same piano with several prompts (`demo.prompts`). A second run compares its bits with the
receipt of the first.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from demo.picture import draw
from demo.prompts import bounce_prompts
from engine_server.files import read_audio, write_audio, write_json
from engine_server.tracks.curves import build_table
from engine_server.tracks.receipt import Receipt, write_receipt
from hosts.bounce import ROOT, start_bounce
from shared_protocol.codec import Floats
from shared_protocol.messages import make_config
from shared_protocol.timebase import FRAMES_PER_SECOND, frames_to_cover

SOURCE = ROOT / "fixtures" / "turin_italy_30s.flac"
CONFIG = make_config(prompt="string ensemble", seed=7, steps=0, solver="ode")
BLOCK = 480
"""A block starts on every frame, so the drawn lanes are followed exactly."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, default=ROOT / "out" / "demo")
    options.add_argument("--source", type=Path, default=SOURCE)
    options.add_argument("--prompt", default=CONFIG.prompt)
    arguments = options.parse_args()
    config = msgspec.structs.replace(CONFIG, prompt=arguments.prompt)
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)

    source, rate = read_audio(arguments.source)
    lanes = draw_lanes(frames_to_cover(source.shape[1], rate))
    with engine_server() as (endpoint, checkpoint, checkpoint_hash, backend):
        began = time.monotonic()
        environment = {"DEMON_PROMPT": config.prompt, "DEMON_SEED": str(config.seed)}
        job = start_bounce(
            "dawdreamer", source, endpoint=endpoint, rate=rate, block=BLOCK, lanes=lanes, environment=environment
        )
        result, report = job.finish()
        took = time.monotonic() - began
        receipt = write_receipt(
            checkpoint=checkpoint,
            checkpoint_hash=checkpoint_hash,
            backend=backend,
            rate=rate,
            config=config,
            source=source,
            curves=build_table(lanes, len(lanes["denoise"])),
            result=result,
        )
        write_audio(out / "source.wav", source, rate)
        write_audio(out / "bounce.wav", result, rate)
        draw(out / "picture.png", source, result, rate, lanes, title=f"“{config.prompt}”, seed {config.seed}")
        seconds = source.shape[1] / rate
        print(
            f"bounced {seconds:.1f} s in {took:.1f} s ({seconds / took:.1f}x real time), latency {report.latency / rate:.2f} s"
        )
        print(compare_with_last(out / "receipt.json", receipt))
        write_json(out / "receipt.json", receipt)
        bounce_prompts(endpoint, out / "prompts")
    print(f"{out}: source.wav, bounce.wav, picture.png, receipt.json; prompts/: a WAV for each prompt, prompts.png")


def draw_lanes(frames: int) -> dict[str, Floats]:
    """Denoise rises slowly from the source to something new and falls back; Velocity steps between bars."""
    t = np.arange(frames) / FRAMES_PER_SECOND
    rise = 0.5 - 0.5 * np.cos(2 * np.pi * t / (frames / FRAMES_PER_SECOND))
    steps = np.array([1.0, 0.85, 1.1, 1.0])[(t // 2.5).astype(int) % 4]
    return {"denoise": np.round(0.9 * rise, 3).astype(np.float32), "velocity_scale": steps.astype(np.float32)}


@contextmanager
def engine_server() -> Iterator[list[str]]:
    """A server process with the embedded checkpoint; yields endpoint, checkpoint, its hash, and the backend."""
    command = [sys.executable, "-m", "engine_server.cli", "serve", "--endpoint", "tcp://127.0.0.1:*"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.startswith("serving "):
            raise SystemExit("the engine server did not start")
        yield line.strip().split(maxsplit=4)[1:]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def compare_with_last(path: Path, receipt: Receipt) -> str:
    """Say whether the last run, if there was one with the same input, gave the same bits."""
    result = f"result {receipt.result_sha256[:16]}"
    if not path.exists():
        return result
    last = msgspec.json.decode(path.read_bytes(), type=Receipt)
    if msgspec.structs.replace(last, result_sha256=receipt.result_sha256) != receipt:
        return f"{result} (the last run had other input)"
    same = last.result_sha256 == receipt.result_sha256
    return f"{result}: {'the same bits as' if same else 'OTHER BITS than'} the last run"


if __name__ == "__main__":
    main()
