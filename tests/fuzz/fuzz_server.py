# SPDX-License-Identifier: Apache-2.0
"""Damaged messages to a live server by the hundred thousand: `python -m tests.fuzz.fuzz_server --runs 200000 --seed 1`.

Some strange clients visit it at once, and honest ones bounce beside them. What must hold: every bounce has its bits, every
visit is answered to its end, no error is a fault of the server (`E_ENGINE`, a traceback, an error in its log), and at rest it
holds no more than after a warm-up. What a finding was said by is written down, for `--replay FILE...`.
"""

from __future__ import annotations

import os

# Before torch is imported: spinning threads disturb whatever shares the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import argparse
import contextlib
import itertools
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import zmq
from diffusers.utils import logging as diffusers_logging

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))  # the tests' own modules, as pytest finds them

from tiny_checkpoint import build_tiny_checkpoint
from track_rig import music
from transformers.utils import logging as transformers_logging
from wire import CONFIG, WireClient

from engine_server.model.checkpoint import load_checkpoint
from engine_server.serve.report import EngineReport
from engine_server.status.ask import ask
from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.render import render
from shared_protocol import messages as m
from shared_protocol.codec import Floats
from shared_protocol.errors import DemonError
from tests.fuzz.peer import FindingError, Peer
from tests.fuzz.visits import Said, make_visit, read_visit, write_visit
from tests.soak.leaks import check_flat
from tests.soak.servers import Held, Server
from tests.soak.starter import Starter
from tests.soak.verdicts import ViolationError

PEERS = 8
"""At once: far fewer than a server has places. Each may send 2000 messages a second, more than all of them do."""
FRAMES = 100
"""Of an honest bounce."""
SOURCE = music(FRAMES)
PORTIONS, WARM_UP = 10, 2
"""Of the messages, with a rest after each; portions before memory is what it stays."""
MOST_GROWTH_MIB = 96.0
"""By the trend over the rests: of 200 000 messages none may leave more than 630 bytes. The allocator breathes by some tens."""
REST_S, BREATH_S = 60.0, 1.0
LAST_VISITS = 64
"""Which a fault in the log may be of."""
Visits = Iterator[tuple[str, Sequence[Said]]]
"""With their names."""


@dataclass
class Result:
    """What crowds of strange clients brought."""

    read: int = 0
    """Damaged messages that the server has read."""
    visits: int = 0
    seconds: float = 0.0
    bounces: int = 0
    """Beside them."""
    heard: Counter[str] = field(default_factory=Counter)
    """Answers by type, errors by code."""
    unread: int = 0
    """Messages dropped by the limit of a client's rate, if any."""
    growth_mib: float = 0.0
    findings: list[str] = field(default_factory=list)
    last: deque[tuple[str, Sequence[Said]]] = field(default_factory=lambda: deque(maxlen=LAST_VISITS))
    """Visits, the newest last."""

    def __str__(self) -> str:
        refused, taken = (
            ", ".join(
                f"{kind} {count}" for kind, count in self.heard.most_common() if kind.startswith("E_") == is_error
            )
            for is_error in (True, False)
        )
        return (
            f"server: {self.read} damaged messages read in {self.seconds:.0f} s ({self.read / self.seconds:.0f} per second), "
            f"in {self.visits} visits; {self.unread} dropped unread; answered with {refused}; and with {taken}; "
            f"{self.bounces} honest bounces; memory {self.growth_mib:+.1f} MiB; {len(self.findings)} findings"
        )


class Crowd:
    """Strange clients, each on a thread of its own, who visit until the server has read so many damaged messages in all.

    What they bring is added to a result. After a finding nobody visits any more.
    """

    def __init__(self, endpoint: str, visits: Visits, until: int, result: Result) -> None:
        self._endpoint, self._visits, self._until, self._result = endpoint, visits, until, result
        self._lock = threading.Lock()
        self._context = zmq.Context()
        self._threads = [threading.Thread(target=self._work) for _ in range(PEERS)]

    @property
    def is_there(self) -> bool:
        """Whether somebody still visits."""
        return any(thread.is_alive() for thread in self._threads)

    def __enter__(self) -> Crowd:
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the end."""
        for thread in self._threads:
            thread.join()
        self._result.seconds += time.monotonic() - self._began
        self._context.destroy(linger=0)

    def _work(self) -> None:
        result = self._result
        while True:
            with self._lock:
                if result.findings or result.read >= self._until or (visit := next(self._visits, None)) is None:
                    return
                result.last.append(visit)
            with Peer(self._context, self._endpoint) as peer:
                finding = self._say(peer, visit[1])
            with self._lock:
                result.read += peer.read_odd
                result.heard += peer.heard
                result.visits += 1
                if finding:
                    result.findings.append(f"visit {visit[0]}: {finding}")

    @staticmethod
    def _say(peer: Peer, visit: Sequence[Said]) -> str:
        """What was wrong, if anything."""
        try:
            peer.visit(visit)
        except Exception as error:  # an answer that is none, too
            return f"{type(error).__name__}: {error}"
        return ""


def fuzz(
    server: Server,
    bits: Floats,
    *,
    runs: int,
    seed: int,
    portions: int = PORTIONS,
    most_growth_mib: float = MOST_GROWTH_MIB,
) -> Result:
    """Let strange clients say so much. bits: of `SOURCE`, bounced."""
    result, held = Result(), []
    visits = ((f"{seed}-{number}", make_visit(seed, number)) for number in itertools.count())
    for portion in range(1, portions + 1):
        visit_beside(server, bits, visits, runs * portion // portions, result)
        with _noted(result, "at rest"):
            held.append(at_rest(server))
        if result.findings:
            return result
    with _noted(result, "at rest"):
        result.growth_mib = check_flat(held, 1024 * most_growth_mib, warm_up=WARM_UP)["rss_growth_mib"]
    return result


def visit_beside(server: Server, bits: Floats, visits: Visits, until: int, result: Result) -> None:
    """Let a crowd visit, bounce beside it and once after it, and look into the log."""
    with Crowd(server.endpoint, visits, until, result) as crowd, _noted(result, "an honest bounce"):
        _bounce(server, bits)
        while crowd.is_there:
            result.bounces += 1
            _bounce(server, bits)
    result.findings += server.complaints()
    if not server.is_alive():
        result.findings.append("the server has ended")
        return
    with _noted(result, "afterwards"):
        _bounce(server, bits)
        unread = _report(server).refusals.get("E_RATE", 0)
        result.read, result.unread = result.read - (unread - result.unread), unread


@contextlib.contextmanager
def _noted(result: Result, when: str) -> Iterator[None]:
    """What goes wrong meanwhile is a finding."""
    try:
        yield
    except (FindingError, ViolationError, DemonError, TimeoutError) as error:
        result.findings.append(f"{when}: {error}"[:1000])


def at_rest(server: Server) -> Held:
    """What the server holds once it has forgotten every track. Raises TimeoutError, and DemonError `E_LINK` if it is silent."""
    until = time.monotonic() + REST_S
    while _report(server).tracks:
        if time.monotonic() > until:
            raise TimeoutError(f"after {REST_S:.0f} s without clients the server still knows tracks")
        time.sleep(BREATH_S)
    time.sleep(BREATH_S)  # the engine hears last that a track has gone
    return server.held()


def _bounce(server: Server, bits: Floats) -> None:
    """As an honest client that comes, bounces and says goodbye. Raises FindingError, and TimeoutError where no answer comes."""
    with WireClient(server.endpoint) as client:
        client.hello()
        if not np.array_equal(client.bounce(SOURCE, frames=FRAMES), bits):
            raise FindingError("other bits")
        client.send(m.Bye())
        client.ping()
        client.wait_for(m.Error, code="E_UNKNOWN_TRACK")  # the goodbye has been read


def _report(server: Server) -> EngineReport:
    report = ask(server.endpoint, None)
    assert isinstance(report, EngineReport)
    return report


def write_last(result: Result, folder: Path) -> None:
    """Keep the last visits."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, visit in result.last:
        write_visit(visit, folder / f"visit-{name}")


def main() -> None:
    """Fuzz a server of its own with the tiny checkpoint; status 1 after a finding."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz.fuzz_server", description="Damaged messages to a server."
    )
    parser.add_argument("--runs", type=int, default=200_000, help="damaged messages that the server shall have read")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--found", type=Path, default=Path("build-fuzz/found/server"), help="folder for visits of findings"
    )
    parser.add_argument(
        "--replay", type=Path, nargs="+", metavar="FILE", help="such visits, all at once, and nothing else"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="demon-fuzz-") as name:
        folder = Path(name)
        for library in (diffusers_logging, transformers_logging):
            library.disable_progress_bar()
        os.environ["XDG_DATA_HOME"] = os.environ["XDG_CONFIG_HOME"] = name  # what is the user's stays out of it
        model, starter = build_tiny_checkpoint(folder / "tiny"), Starter()
        try:
            with Server(starter, model, folder / "server") as server:
                bits = expected_bits(model)
                if given.replay:
                    result = Result()
                    visits = ((path.name, read_visit(path)) for path in given.replay)
                    visit_beside(server, bits, visits, sys.maxsize, result)
                else:
                    result = fuzz(server, bits, runs=given.runs, seed=given.seed)
        finally:
            starter.close()
    print(f"{'replayed' if given.replay else f'seed {given.seed}'}; {result}")
    if result.findings:
        print(*result.findings, sep="\n")
        write_last(result, given.found)
        print(f"the last visits are in {given.found}: python -m tests.fuzz.fuzz_server --replay {given.found}/*")
    sys.exit(1 if result.findings else 0)


def expected_bits(model: Path) -> Floats:
    """What an honest bounce of `SOURCE` is, without a server."""
    engine = Engine(load_checkpoint(str(model)))
    return render(engine, SOURCE, 48_000, build_table({"denoise": 0.6}, FRAMES), CONFIG)


if __name__ == "__main__":
    main()
