# SPDX-License-Identifier: Apache-2.0
"""A real server under damaged messages of several strange clients: bounces beside them have their bits, and nothing piles up.

`DEMON_FUZZ_RUNS=200000` says more; `make fuzz` does. And what the fuzzer calls a finding.
"""

from __future__ import annotations

import os
import threading

import msgspec
import pytest
import zmq

from shared_protocol import messages as m
from shared_protocol.codec import Packet, encode
from tests.fuzz.fuzz_server import Crowd, Result, expected_bits, fuzz
from tests.fuzz.peer import FindingError, Peer
from tests.fuzz.visits import expects_welcome, make_visit, read_visit, write_visit
from tests.soak.ports import HOST, free_port_pair
from tests.soak.servers import Server
from tests.soak.starter import Starter

RUNS = int(os.environ.get("DEMON_FUZZ_RUNS", "2000"))
SEED = int(os.environ.get("DEMON_FUZZ_SEED", "1"))
MOST_GROWTH_MIB = 400.0
"""A young server takes what it will keep; a leak of whole messages would be more even here."""
REACHED = {"E_EPOCH", "E_FEED_GAP", "E_LANE_RANGE", "E_PAYLOAD_SIZE", "E_NOT_FINITE", "E_REFERENCE", "E_LORA",
           "welcome", "pong", "configured", "edited", "referenced", "state"}  # fmt: skip
"""What nobody is told who has no track, and no epoch in it."""


def test_honest_bounces_have_their_bits_beside_damaged_messages(tiny_folder, tmp_path):
    starter = Starter()
    try:
        with Server(starter, tiny_folder, tmp_path) as server:
            bits = expected_bits(tiny_folder)
            result = fuzz(server, bits, runs=RUNS, seed=SEED, portions=4, most_growth_mib=MOST_GROWTH_MIB)
    finally:
        starter.close()
    assert result.findings == []
    assert result.read >= RUNS
    assert result.bounces > 0
    assert result.heard.keys() >= REACHED


def test_a_visit_is_a_function_of_seed_and_number_and_can_be_kept(tmp_path):
    visit = make_visit(SEED, 5)
    assert visit == make_visit(SEED, 5)
    assert visit != make_visit(SEED, 6)
    write_visit(visit, tmp_path / "visit")
    assert read_visit(tmp_path / "visit") == visit


def test_a_visit_is_mostly_damaged_and_begins_conversations_that_are_not():
    visit = make_visit(SEED, 5)
    assert sum(said.is_odd for said in visit) > len(visit) / 2
    assert [said for said in visit if not said.is_odd and expects_welcome(said)]
    assert {said.by_audio for said in visit} == {True, False}


class Impostor:
    """In a server's place: answers everything by the socket that it came by with the same message, or with none."""

    def __init__(self, answer):
        self._context = zmq.Context()
        self._sockets = [self._context.socket(zmq.ROUTER) for _ in range(2)]
        port = free_port_pair()
        for number, socket in enumerate(self._sockets):
            socket.bind(f"tcp://{HOST}:{port + number}")
        self.endpoint = f"tcp://{HOST}:{port}"
        self._answer, self._is_over = answer, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._is_over.is_set():
            for socket in zmq.select(self._sockets, [], [], 0.02)[0]:
                routing_id, header, *_ = socket.recv_multipart()
                if self._answer:
                    socket.send_multipart([routing_id, *self._answer(header)])
        self._context.destroy(linger=0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._is_over.set()
        self._thread.join()


def refuse(code):
    """What answers every message with the same code, for its epoch."""

    def answer(header):
        try:
            epoch = msgspec.msgpack.decode(header)["epoch"]
        except (ValueError, TypeError, KeyError, RecursionError):
            epoch = 0
        return encode(Packet(m.Error(code, "no", epoch if isinstance(epoch, int) and 0 <= epoch < 2**31 else 0)))

    return answer


@pytest.mark.parametrize(
    ("answer", "finding"),
    [
        (refuse("E_ENGINE"), "E_ENGINE"),
        (refuse("E_OTHER"), "E_OTHER"),
        (lambda _: [b"\xc1"], "malformed"),
        (None, "answer"),
    ],
    ids=["a fault", "an unknown code", "no message", "silence"],
)
def test_what_a_server_must_not_answer_is_found(monkeypatch, answer, finding):
    monkeypatch.setattr("tests.fuzz.peer.ANSWER_S", 0.5)
    monkeypatch.setattr("tests.fuzz.peer.ASK_AGAIN_S", 0.2)
    result = Result()
    with Impostor(answer) as impostor, Crowd(impostor.endpoint, iter([("v", make_visit(SEED, 0))]), 10**6, result):
        pass
    assert len(result.findings) == 1
    assert result.findings[0].startswith("visit v: ")
    assert finding in result.findings[0]


def test_only_what_the_server_has_read_counts(monkeypatch):
    monkeypatch.setattr("tests.fuzz.peer.ANSWER_S", 5.0)
    odd = [said for said in make_visit(SEED, 0) if said.is_odd and not expects_welcome(said)]
    with (
        Impostor(refuse("E_UNKNOWN_MESSAGE")) as impostor,
        zmq.Context() as context,
        Peer(context, impostor.endpoint) as peer,
    ):
        peer.visit(odd)
        assert peer.read_odd == len(odd)
    with Impostor(None) as impostor, zmq.Context() as context, Peer(context, impostor.endpoint) as peer:
        monkeypatch.setattr("tests.fuzz.peer.ANSWER_S", 0.2)
        monkeypatch.setattr("tests.fuzz.peer.ASK_AGAIN_S", 0.2)
        with pytest.raises(FindingError, match="no answer"):
            peer.visit(odd)
        assert peer.read_odd == 0
