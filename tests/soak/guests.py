# SPDX-License-Identifier: Apache-2.0
"""Tracks that come and go: small clients of the protocol, each visit another kind of guest, well-behaved or not."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import numpy as np
from wire import WireClient

from shared_protocol import messages as m
from tests.soak.music import DENOISE, PIECE, PROMPT, RATE, SEED, Music
from tests.soak.verdicts import ViolationError

VISIT_TIMEOUT_S = 120.0
"""For each answer: generous for a server that many others keep busy."""
FRAME = 1920
FRAMES = 50
"""Of what is bounced: 2 s."""

Visit = Callable[[WireClient, Music, random.Random], None]


def bounce(client: WireClient, music: Music, rng: random.Random) -> None:
    """Two seconds, to the bit, and a proper farewell."""
    client.hello()
    out = client.bounce(_piece(music), frames=FRAMES)
    if not np.array_equal(out, music.short_reference(FRAMES * FRAME)):
        raise ViolationError("a bounce among others has other bits")
    client.send(m.Bye())


def commit(client: WireClient, music: Music, rng: random.Random) -> None:
    """A clip made once, all of it received and acknowledged."""
    client.hello(mode="loop", latency=0)
    client.clip(_piece(music), kind="commit", value=DENOISE)
    wanted = 0
    while wanted < FRAMES:
        header = client.wait_for(m.Window, VISIT_TIMEOUT_S).header
        wanted = max(wanted, header.frame + header.count)
        client.ping(1, wanted)
    client.send(m.Drop(1))
    client.send(m.Bye())


def loop(client: WireClient, music: Music, rng: random.Random) -> None:
    """Some takes of a clip whose lanes are edited meanwhile; left without dropping it."""
    client.hello(mode="loop", latency=0, config=_any_config(rng))
    client.clip(_piece(music), value=DENOISE)
    for revision in range(rng.randint(1, 6)):
        client.wait_for(m.Window, VISIT_TIMEOUT_S)
        client.edit(1, revision, (0, 0, rng.randint(1, FRAMES), round(rng.random(), 5)))
        client.wait_for(m.Edited, VISIT_TIMEOUT_S, revision=revision)
        client.ping(1, rng.randrange(FRAMES))
    client.send(m.Bye())


def leave(client: WireClient, music: Music, rng: random.Random) -> None:
    """Feeds a while and is gone, without a word, as one that was killed."""
    client.hello(config=_any_config(rng))
    client.send(m.Begin(1, "stream", 0, 0, 0, bool(rng.randrange(2))))
    for frame in range(0, rng.randint(1, 8) * 25, 25):
        client.feed(1, frame, music.source(1)[:, : 25 * FRAME])
    time.sleep(rng.random())


def come_back(client: WireClient, music: Music, rng: random.Random) -> None:
    """Says hello again and again, each time with an epoch under way: the old track has to go."""
    for _ in range(rng.randint(2, 5)):
        client.hello(config=_any_config(rng))
        client.send(m.Begin(1, "stream", 0, 0, 0, True))
        client.feed(1, 0, _piece(music)[:, : 50 * FRAME])
        client.ping(1)
        client.wait_for(m.Pong, VISIT_TIMEOUT_S)
    client.send(m.Bye())


def misbehave(client: WireClient, music: Music, rng: random.Random) -> None:
    """What is refused: another version, no track, nonsense."""
    client.ping()
    client.wait_for(m.Error, VISIT_TIMEOUT_S, code="E_UNKNOWN_TRACK")
    client.send(client.hello_header(protocol=9999))
    client.wait_for(m.Error, VISIT_TIMEOUT_S, code="E_PROTOCOL_VERSION")
    client.send_raw([rng.randbytes(rng.randint(1, 4096))])
    client.wait_for(m.Error, VISIT_TIMEOUT_S)


def idle(client: WireClient, music: Music, rng: random.Random) -> None:
    """There, and wants nothing but heartbeats."""
    client.hello(config=_any_config(rng))
    for _ in range(rng.randint(1, 12)):
        client.ping()
        client.wait_for(m.Pong, VISIT_TIMEOUT_S)
        time.sleep(0.25)
    client.send(m.Bye())


POLITE: tuple[Visit, ...] = (bounce, bounce, commit, loop, come_back, misbehave, idle)
"""They say goodbye, and are forgotten at once."""
ALL: tuple[Visit, ...] = (*POLITE, leave)


def visit(endpoint: str, music: Music, rng: random.Random, kinds: Sequence[Visit] = ALL) -> str:
    """One visit of a guest; its kind. Raises ViolationError, or TimeoutError for an answer that did not come."""
    kind = rng.choice(kinds)
    with WireClient(endpoint) as client:
        try:
            kind(client, music, rng)
        except TimeoutError as error:
            raise TimeoutError(f"{kind.__name__}: {str(error)[:500]}") from error
        if kind is not leave:
            time.sleep(0.05)  # lets the context's own thread send the farewell
    return kind.__name__


def _piece(music: Music):
    return np.ascontiguousarray(music.source(1)[:, : FRAMES * FRAME])


def _any_config(rng: random.Random) -> m.Config:
    """A prompt that nobody had before: what is kept for each would show."""
    return m.make_config(prompt=f"{PROMPT} {rng.random()}", seed=rng.randrange(2**32), steps=rng.randint(1, 8))


assert SEED == 7 and RATE == 48_000 and PIECE >= FRAMES * FRAME, "what WireClient says by default"  # noqa: PT018
