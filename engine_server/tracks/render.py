# SPDX-License-Identifier: Apache-2.0
"""A bounce without plugin and socket: the same track, planner and ring as the server's, fed as fast as it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from engine_server.tracks.curves import CurveTable
from engine_server.tracks.engine import Engine
from engine_server.tracks.references import reference_hash
from engine_server.tracks.sound import TrackSound
from engine_server.tracks.track import Track
from shared_protocol.codec import CHANNELS, Floats
from shared_protocol.messages import Config
from shared_protocol.timebase import frames_to_cover, samples_per_frame

TRACK = "render"
EPOCH = 1
LATENCY_FRAMES = 3000
"""No host waits here, so the latency only has to be enough for any model."""


def render(
    engine: Engine,
    source: Floats,
    rate: int,
    curves: CurveTable,
    config: Config,
    *,
    references: Sequence[tuple[Floats, int]] = (),
    on_window: Callable[[int, int], None] = lambda done, total: None,
) -> Floats:
    """`source` `[2, N]` at `rate`, transformed: `[2, N]` float32, bit-identical to a bounce through the plugin.

    references: audio `[2, N]` and rate of what the configuration names by `reference_hash`. on_window gets (frames finished,
    frames in all) after every window. After its end the source goes on as silence, as hosts deliver it while they flush the
    latency. Raises DemonError, and whatever the engine failed with.
    """
    track = Track(
        TRACK,
        engine.checkpoint,
        rate=rate,
        latency=LATENCY_FRAMES,
        lanes=curves.lanes,
        config=config,
        loras=engine.loras,
    )
    prepare(track.sound, references)
    track.begin(EPOCH, start=0, feed_from=0, deliver_from=0, offline=True)
    geometry, size = track.geometry, samples_per_frame(rate)
    total = frames_to_cover(source.shape[1], rate)
    last_hop = geometry.hop_finishing_audio(total - 1)
    needed = geometry.window_span(last_hop).stop + geometry.input_reach
    lanes = curves.extended(needed)
    result = np.zeros((CHANNELS, total * size), dtype=np.float32)

    engine.tracks[TRACK] = track
    try:
        fed = done = 0
        while done < total:
            while fed < needed and not track.next_hop():
                track.feed(EPOCH, fed, _frame(source, fed, size), lanes[fed : fed + 1])
                fed += 1
            step = engine.step()
            for _, error in step.failures:
                raise error
            for window in step.windows:
                stop = min(window.frame + window.count, total)
                result[:, window.frame * size : stop * size] = window.audio[:, : (stop - window.frame) * size]
                done = stop
                on_window(done, total)
    finally:
        engine.remove(TRACK)
    return result[:, : source.shape[1]]


def prepare(sound: TrackSound, references: Sequence[tuple[Floats, int]]) -> None:
    """Give a track the references that its configuration names. Raises DemonError for what is missing."""
    for audio, rate in references:
        sound.references.put(reference_hash(audio, rate), audio, rate)
    if missing := sound.missing():
        raise missing[0]
    while sound.references.is_encoding():
        sound.references.encode_some()


def _frame(source: Floats, frame: int, size: int) -> Floats:
    """One frame `[2, size]` of the source, silence after its end."""
    part = source[:, frame * size : (frame + 1) * size]
    return np.pad(part, ((0, 0), (0, size - part.shape[1])))
