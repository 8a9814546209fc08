# SPDX-License-Identifier: Apache-2.0
"""A commit without plugin and socket: a whole file as a clip, with the bits that a loop of it is bounced to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from engine_server.tracks.curves import CurveTable
from engine_server.tracks.engine import Engine
from engine_server.tracks.loop_track import LoopTrack
from engine_server.tracks.render import EPOCH, TRACK, prepare
from shared_protocol.codec import CHANNELS, Floats
from shared_protocol.messages import MAX_FEED_FRAMES, Config
from shared_protocol.timebase import frames_to_cover, samples_per_frame


def render_clip(
    engine: Engine,
    source: Floats,
    rate: int,
    curves: CurveTable,
    config: Config,
    *,
    references: Sequence[tuple[Floats, int]] = (),
    on_window: Callable[[int, int], None] = lambda done, total: None,
) -> Floats:
    """`source` `[2, N]` at `rate` as a clip that begins at timeline zero, committed: `[2, N]` float32.

    Arguments and errors are those of `render`; besides, DemonError `E_CLIP` for a source that is empty or too long.
    """
    track = LoopTrack(
        TRACK, engine.checkpoint, rate=rate, latency=0, lanes=curves.lanes, config=config, loras=engine.loras
    )
    prepare(track.sound, references)
    size, total = samples_per_frame(rate), frames_to_cover(source.shape[1], rate)
    padded = np.pad(source, ((0, 0), (0, total * size - source.shape[1])))
    lanes = curves.extended(total)
    result = np.zeros((CHANNELS, total * size), dtype=np.float32)
    track.begin(EPOCH, kind="commit", start=0, feed_from=0, deliver_from=0, offline=True)
    for first in range(0, total, MAX_FEED_FRAMES):
        stop = min(first + MAX_FEED_FRAMES, total)
        track.feed(EPOCH, first, padded[:, first * size : stop * size], lanes[first:stop])
    track.finish(EPOCH, total)
    engine.tracks[TRACK] = track
    try:
        while track.has_epoch(EPOCH):
            step = engine.step()
            for _, error in step.failures:
                raise error
            for window in step.windows:
                stop = window.frame + window.count
                result[:, window.frame * size : stop * size] = window.audio
                on_window(stop, total)
    finally:
        engine.remove(TRACK)
    return result[:, : source.shape[1]]
