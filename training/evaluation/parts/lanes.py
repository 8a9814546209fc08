# SPDX-License-Identifier: Apache-2.0
"""Lanes and parameters: what each of them does to one song, measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.lanes import ACTED_LANES, CLIP_LANES
from engine_server.tracks.references import reference_hash
from engine_server.tracks.render import render
from engine_server.tracks.render_clip import render_clip
from shared_protocol.lanes import load_lanes
from shared_protocol.messages import LORA_SLOTS, make_config
from shared_protocol.timebase import frames_to_cover
from training.evaluation.descriptors import describe, most_telling
from training.evaluation.probes import PARAMETER_PROBES, LaneProbe, Needs, Scene, lane_probes
from training.evaluation.report import Figure, Listing, share
from training.evaluation.spectra import SAMPLE_RATE, log_mel_distance
from training.evaluation.subject import Subject

SECONDS = 6.0
DENOISE = 0.6
"""Of the parameters' calls; the lane's own default."""
FEEDBACK_ROUNDS = 4
"""Of a clip; without feedback one is enough."""
HEARD_NAT = 0.02
"""A change of the log-mel spectrum from which on it counts as heard."""
COLUMNS = ("what", "setting", "with", "log-mel distance, nat", "most telling", "default", "there")


def measure(subject: Subject) -> Iterator[Figure | Listing]:
    """Every lane at its extremes through the engine, and every other parameter through the session."""
    take = subject.held_out.takes(0)
    audio = subject.held_out.audio(0, 0, seconds=SECONDS)
    prompt = take[1].words[0]
    probes = lane_probes()
    if subject.effort.quick:
        probes = [probe for probe in probes if probe.lane in ("denoise", "guidance", "timbre", "gain_00_07")]
    rows = _lane_rows(subject, audio, prompt, probes)
    heard = {row[0] for row in rows if row[3] >= HEARD_NAT}
    silent = [probe.lane for probe in probes if probe.lane not in heard]
    note = f"at least {HEARD_NAT:g} nat" + (f"; not {', '.join(silent)}" if silent else "")
    yield share("lanes that are heard", len(heard), len(probes), note)
    others = [lane for lane in load_lanes() if lane not in CLIP_LANES]
    yield Listing("lanes", COLUMNS, rows, f"the engine does not act on {', '.join(others)}")
    rows = _parameter_rows(subject, audio, prompt, take[2].words[0])
    heard = {row[0] for row in rows if row[3] >= HEARD_NAT}
    yield share("parameters that are heard", len(heard), len({row[0] for row in rows}))
    yield Listing("parameters", COLUMNS, rows)


Row = tuple[str, str, str, float, str, float, float]


def _lane_rows(subject: Subject, audio: Tensor, prompt: str, probes: list[LaneProbe]) -> list[Row]:
    engine = Engine(subject.session.checkpoint)
    source = np.ascontiguousarray(audio.numpy())
    other = np.ascontiguousarray(subject.held_out.audio(1, 0, seconds=SECONDS).numpy())
    frames = frames_to_cover(source.shape[1], SAMPLE_RATE)
    loras = list(engine.loras.names())

    def rendered(probe: LaneProbe, lanes: Mapping[str, float]) -> Tensor:
        is_timbre, is_lora = probe.needs is Needs.TIMBRE, probe.needs is Needs.LORAS
        config = make_config(
            prompt=prompt,
            seed=0,
            steps=0,
            solver="ode",
            timbre=reference_hash(other, SAMPLE_RATE) if is_timbre else "",
            feedback_rounds=FEEDBACK_ROUNDS,
            loras=[loras[slot % len(loras)] for slot in range(LORA_SLOTS)] if is_lora and loras else (),
        )
        references = [(other, SAMPLE_RATE)] if is_timbre else []
        make, acted = (render_clip, CLIP_LANES) if probe.needs is Needs.LOOP else (render, ACTED_LANES)
        curves = build_table(lanes, frames, acted)
        return torch.from_numpy(make(engine, source, SAMPLE_RATE, curves, config, references=references))

    plain: dict[str, Tensor] = {}
    rows = []
    for probe in subject.progress.each(probes, "lanes"):
        settings = [f"{lane} {value:g}" for lane, value in probe.companions.items()]
        companions = ", ".join([probe.needs] * bool(probe.needs) + settings)
        if companions not in plain:
            plain[companions] = rendered(probe, probe.companions)
        for value in probe.settings:
            result = rendered(probe, {**probe.companions, probe.lane: value})
            rows.append(_row(probe.lane, f"{value:g}", companions, plain[companions], result))
    return rows


def _parameter_rows(subject: Subject, audio: Tensor, prompt: str, other_prompt: str) -> list[Row]:
    session = subject.session
    scene = Scene(
        session,
        subject.prepare(audio),
        subject.prepare(subject.held_out.audio(1, 0, seconds=SECONDS)),
        session.encode_text(tags=prompt),
        session.encode_text(tags=other_prompt),
    )
    plain: dict[str, Tensor] = {}
    rows = []
    for probe in subject.progress.each(PARAMETER_PROBES[: subject.effort.of(100, 2)], "parameters"):
        base = {"source": scene.source, "conditioning": scene.words, "denoise": DENOISE, **probe.base}
        companions = ", ".join(f"{name} {value:g}" for name, value in probe.base.items())
        if companions not in plain:
            plain[companions] = subject.hear(session.generate(**base))
        for label, options in probe.settings.items():
            result = subject.hear(session.generate(**{**base, **options(scene)}))
            rows.append(_row(probe.parameter, label, companions, plain[companions], result))
    return rows


def _row(what: str, setting: str, companions: str, before: Tensor, after: Tensor) -> Row:
    old, new = describe(before), describe(after)
    name = most_telling(old, new)
    return what, setting, companions, log_mel_distance(before, after), name, old[name], new[name]
