# SPDX-License-Identifier: Apache-2.0
"""Whether what came out of a host is right: pure functions of the audio and the plan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shared_protocol.codec import Floats
from tests.soak.music import LATENCY, RATE
from tests.soak.watch import Seen

CROSSFADE = 512
"""Samples in which a bounce passes from the engine's sound to the dry signal."""
CALM_S = 10.0
"""After this long a live host must be heard wet again: the plugin's latency of 6 s, and time to compute on a busy machine."""
REST_S = 15.0
"""After this long a loop must rest again: the clip is fed again, a take is made, and the pass that is judged is played."""
LAST_BLOCKS = 100


class ViolationError(Exception):
    """Something that must never happen did."""


def judge_bounce(
    audio: Floats, expected: Floats, source: Floats, *, may_end_dry: bool, receipts: Sequence[dict]
) -> str:
    """`same bits`, or `dry from ... s` where that is allowed. Raises ViolationError."""
    if np.array_equal(audio, expected):
        return "same bits"
    if audio.shape != expected.shape:
        raise ViolationError(f"{audio.shape[1]} samples came out instead of {expected.shape[1]}")
    first = int(np.flatnonzero((audio != expected).any(axis=0))[0])
    place = f"from {first / RATE:.3f} s on"
    if not np.array_equal(audio[:, first + CROSSFADE :], source[:, first + CROSSFADE :]):
        raise ViolationError(f"other bits than the reference's {place}, and not the dry signal either")
    if not may_end_dry:
        raise ViolationError(f"dry {place} although the engine was never away for as long as a bounce waits")
    if any(receipt["complete"] for receipt in receipts):
        raise ViolationError(f"dry {place}, and its receipt says that it is complete")
    return f"dry {place}"


def judge_playing(audio: Floats, expected: Floats, seen: Sequence[Seen], block: int, *, calm_s: float) -> str:
    """Every block that was wet and in time has the reference's bits, and the last ones are wet and in time if nothing has
    struck for long enough. Raises ViolationError."""
    blocks = [one for one in seen if one.is_playing]
    if len(blocks) * block != audio.shape[1]:
        raise ViolationError(f"the probe log has {len(blocks)} blocks of {audio.shape[1] // block}")
    late = np.array([one.is_late for one in blocks])
    late |= np.roll(late, 1)  # the crossfade back lies in the block after
    in_time = np.repeat(~late, block)
    heard = np.zeros_like(audio)
    count = min(expected.shape[1], audio.shape[1] - LATENCY)
    heard[:, LATENCY : LATENCY + count] = expected[:, :count]
    in_time[LATENCY + count :] = False  # after the music
    wrong = np.flatnonzero((audio != heard).any(axis=0) & in_time)
    if len(wrong):
        raise ViolationError(f"{len(wrong)} samples in time have other bits, the first at {wrong[0] / RATE:.3f} s")
    if calm_s > CALM_S and late[-LAST_BLOCKS:].all():
        raise ViolationError(f"still late {calm_s:.0f} s after the last return")
    return f"in time {1 - late[LATENCY // block :].mean():.0%}"


def judge_looping(audio: Floats, clip: Floats, before: Floats, after: Floats, *, turn_at: int, calm_s: float) -> str:
    """A loop that plays from its capture on, pass by pass. before, after: what it rests on until a knob is turned, and then.

    Once it is at rest nothing that strikes is heard; and the last pass is at rest if nothing has struck for long enough.
    Raises ViolationError.
    """
    length = clip.shape[1]
    if not np.array_equal(audio[:, :length], clip):
        raise ViolationError("the dry signal did not pass while the clip was captured")
    _check_rest(audio[:, :turn_at], before, 0)
    _check_rest(audio, after, -(-turn_at // length) * length)
    last = audio[:, audio.shape[1] // length * length - length :][:, :length]
    if np.array_equal(last, after):
        return "same bits"
    if calm_s > REST_S:
        wrong = int((last != after).any(axis=0).sum())
        raise ViolationError(f"{wrong} of {length} samples are not at rest {calm_s:.0f} s after the last return")
    return "struck to the end"


def _check_rest(audio: Floats, rest: Floats, first: int) -> None:
    """From the first whole pass that is at rest on, of those that begin at sample `first` or later, all has to be.

    Raises ViolationError.
    """
    length = rest.shape[1]
    for start in range(first, audio.shape[1] - length + 1, length):
        if np.array_equal(audio[:, start : start + length], rest):
            heard = audio[:, start:]
            times = -(-heard.shape[1] // length)
            wrong = (heard != np.tile(rest, (1, times))[:, : heard.shape[1]]).any(axis=0)
            if wrong.any():
                at = (start + int(np.argmax(wrong))) / RATE
                raise ViolationError(f"a loop at rest that nobody edits has other bits at {at:.3f} s")
            return
