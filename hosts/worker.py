# SPDX-License-Identifier: Apache-2.0
"""The host process: `python -m hosts.worker`, a `Job` as JSON on standard input; prints a `Report`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hosts.bounce import Job, Report
from hosts.parameters import parameter_name, proportion
from hosts.plugin_state import edit_state
from shared_protocol.codec import Floats
from shared_protocol.timebase import first_sample, samples_per_frame

MAX_LATENCY_S = 15


def main() -> None:
    job = msgspec.json.decode(sys.stdin.read(), type=Job)
    source = np.load(job.source)
    run = {"pedalboard": bounce_in_pedalboard, "dawdreamer": bounce_in_dawdreamer}[job.host]
    audio, report = run(job, source)
    np.save(job.result, audio)
    print(msgspec.json.encode(report).decode(), flush=True)


def bounce_in_pedalboard(job: Job, source: Floats) -> tuple[Floats, Report]:
    """No playhead; latency compensated by the host; parameters change between calls, which are cut at the steps."""
    import pedalboard

    began = time.monotonic()
    plugin: Any = pedalboard.load_plugin(job.bundle)
    loaded = time.monotonic()
    if job.state:
        plugin.raw_state = edit_state(plugin.raw_state, job.state)
    parameters = {parameter.name: parameter for parameter in plugin.parameters.values()}
    plugin.reset()
    parts = []
    for first, stop, values in runs_between_steps(job, source.shape[1]):
        for lane, value in values.items():
            parameters[parameter_name(lane)].raw_value = proportion(lane, value)
        parts.append(plugin.process(source[:, first:stop], job.rate, buffer_size=job.block, reset=False))
    latency = plugin.reported_latency_samples
    parts.append(plugin.process(np.zeros((2, latency), np.float32), job.rate, buffer_size=job.block, reset=False))
    audio = np.concatenate(parts, axis=1)[:, : source.shape[1]]
    return audio, Report(latency, loaded - began, time.monotonic() - loaded)


def bounce_in_dawdreamer(job: Job, source: Floats) -> tuple[Floats, Report]:
    """Playhead and automation, one value a block; latency is not compensated by the host but here."""
    import dawdreamer

    began = time.monotonic()
    engine = dawdreamer.RenderEngine(job.rate, job.block)
    plugin = engine.make_plugin_processor("demon", job.bundle)
    loaded = time.monotonic()
    if job.state:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "state"
            plugin.save_state(str(file))
            file.write_bytes(edit_state(file.read_bytes(), job.state))
            plugin.load_state(str(file))
    playback = engine.make_playback_processor("source", np.pad(source, ((0, 0), (0, MAX_LATENCY_S * job.rate))))
    engine.load_graph([(playback, []), (plugin, ["source"])])  # prepares the plugin: now it knows its latency
    latency = plugin.get_latency_samples()
    samples = source.shape[1] + latency
    indices = {entry["name"]: entry["index"] for entry in plugin.get_parameters_description()}
    for lane, curve in job.lanes.items():
        index = indices[parameter_name(lane)]
        if len(curve) == 1:
            plugin.set_parameter(index, proportion(lane, curve[0]))
        else:
            values = np.array([proportion(lane, value) for value in curve], dtype=np.float32)
            frames = np.arange(samples) // samples_per_frame(job.rate)
            plugin.set_automation(index, values[np.minimum(frames, len(values) - 1)])
    engine.render(samples / job.rate)
    audio = engine.get_audio()[:, latency : latency + source.shape[1]]
    return audio, Report(latency, loaded - began, time.monotonic() - loaded)


def runs_between_steps(job: Job, samples: int) -> list[tuple[int, int, dict[str, float]]]:
    """(first sample, stop, lane values) of every stretch in which no lane changes."""
    frames = -(-samples // samples_per_frame(job.rate))
    table = {lane: [curve[min(frame, len(curve) - 1)] for frame in range(frames)] for lane, curve in job.lanes.items()}
    values = [{lane: curve[frame] for lane, curve in table.items()} for frame in range(frames)]
    starts = [frame for frame in range(frames) if frame == 0 or values[frame] != values[frame - 1]]
    edges = [first_sample(frame, job.rate) for frame in starts] + [samples]
    return [(edges[k], edges[k + 1], values[frame]) for k, frame in enumerate(starts)]


if __name__ == "__main__":
    main()
