# SPDX-License-Identifier: Apache-2.0
"""What servers tell of themselves: by the protocol, as a table, as JSON, and as Prometheus metrics."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
import urllib.error
import urllib.request

import msgspec
import numpy as np
import pytest
import zmq
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from typer.testing import CliRunner
from wire import WireClient

from engine_server.cli import app
from engine_server.serve.clients import MAX_TRACKS
from engine_server.serve.credentials import new_client, read_credentials
from engine_server.serve.gateway import Gateway, Place
from engine_server.serve.keys import KeyPair, KeyStore, make_pair
from engine_server.serve.limits import QUESTIONS_AT_ONCE
from engine_server.serve.report import (
    REASON_BYTES,
    EngineReport,
    ProcessReport,
    TrackReport,
    cut,
    read_report,
    write_report,
)
from engine_server.serve.security import THIS_MACHINE
from engine_server.serve.server import Server
from engine_server.serve.warm_up import warm_up
from engine_server.status import ask as ask_module
from engine_server.status.ask import Answer, Keys, ask, ask_all, find_keys
from engine_server.status.metrics import own_metrics, serve_metrics
from engine_server.status.table import draw
from engine_server.tracks.engine import Engine
from shared_protocol import messages as m
from shared_protocol.codec import Packet, encode
from shared_protocol.errors import DemonError

FRAMES, FRAME = 40, 1920
SILENCE = np.zeros((2, FRAMES * FRAME), dtype=np.float32)


@contextlib.contextmanager
def running(server, *args):
    """A server or gateway on a thread of its own."""
    thread = threading.Thread(target=server.run, args=args)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def server(tiny):
    with running(Server(Engine(tiny), "tcp://127.0.0.1:*")) as one:
        yield one


@pytest.fixture
def store(tmp_path):
    return KeyStore(tmp_path / "keys")


def report_of(server) -> EngineReport:
    (answer,) = ask_all(server.endpoint)
    assert isinstance(answer.report, EngineReport)
    return answer.report


# What an engine reports


def test_asking_opens_no_track(server, tiny):
    report = report_of(server)
    assert (report.tracks, report.most_tracks, report.track_reports) == (0, MAX_TRACKS, [])
    assert (report.checkpoint, report.checkpoint_hash) == (tiny.name, tiny.content_hash)
    assert report.process.pid
    assert report.process.memory_bytes > 2**20
    assert report_of(server).process.up_s > report.process.up_s


def test_a_track_is_told_of_until_it_leaves_and_its_work_counts_for_ever(server):
    with WireClient(server.endpoint) as client:
        client.hello(client="studio 1.0")
        client.bounce(SILENCE, frames=FRAMES)
        client.ping(1, FRAMES, number=2)
        client.wait_for(m.Pong, number=2)
        report = eventually(lambda: report_of(server), lambda r: r.track_reports[0].generations)
        (track,) = report.track_reports
        assert (track.client, track.mode, track.rate, track.user) == ("studio 1.0", "stream", 48_000, "")
        assert track.epochs == 1
        assert track.slot_ticks >= track.generations * 2
        client.send(m.Bye())
        after = eventually(lambda: report_of(server), lambda r: r.tracks == 0)
    assert after.track_reports == []
    assert after.generations >= report.generations > 0
    assert after.slot_ticks >= report.slot_ticks


def eventually(look, holds):
    for _ in range(100):
        if holds(found := look()):
            return found
        threading.Event().wait(0.2)
    raise AssertionError(found)


def test_refusals_are_counted_by_code(server):
    with WireClient(server.endpoint) as client:
        client.ping()
        client.wait_for(m.Error, code="E_UNKNOWN_TRACK")
        client.send_raw([b"\xc1"])
        client.wait_for(m.Error, code="E_MALFORMED")
        assert report_of(server).refusals == {"E_UNKNOWN_TRACK": 1, "E_MALFORMED": 1}


def test_a_flood_of_questions_is_refused_and_others_still_get_answers(server):
    with WireClient(server.endpoint) as client:
        for _ in range(20 * int(QUESTIONS_AT_ONCE)):
            client.send(m.Status())
        client.wait_for(m.Error, code="E_RATE")
        refusals = eventually(lambda: report_of(server).refusals, lambda counts: counts["E_RATE"] > 100)
    assert set(refusals) == {"E_RATE"}


def test_why_a_backend_computes_is_told_to_the_servers_own_user(server):
    assert report_of(server).backend_reason == "eager: asked for by name"


def test_what_the_engine_does_to_warm_up_is_not_counted(tiny):
    engine = Engine(tiny)
    warm_up(engine)
    assert engine.left.generations == engine.left.slot_ticks == 0
    assert engine.step_s == 0.0


def test_the_report_of_the_fullest_server_fits_in_a_message():
    nastiest = "\x01" * 64
    many, real = 2**53, 1e6 / 3
    track = TrackReport("f" * 18, nastiest, "u" * 64, "stream", 192_000, real, many, real, many, real, many, 256, many, 64,
                        2**31, 2**31)  # fmt: skip
    process = ProcessReport(2**22, real, real, 2**40, 2**20)
    codes = {f"E_{number:030}": many for number in range(40)}
    report = EngineReport("s" * 64, "c" * 128, "f" * 64, "b" * 64, 16, process, real, real, real, real, 16, many, many, many,
                          many, 64, 64, 2**31, codes, [track] * MAX_TRACKS, cut('"' * 2000))  # fmt: skip
    message = write_report(report)
    assert len(encode(Packet(message))[0]) < 65_536
    assert read_report(message) == report
    assert cut("\x01" * 2000 + "ü") == " " * REASON_BYTES
    assert cut("ü" * 2000) == "ü" * (REASON_BYTES // 2)


# Keys


def test_with_keys_others_tracks_are_only_counted_but_the_server_itself_is_told_of_all(tiny, store, tmp_path):
    with running(Server(Engine(tiny), "tcp://0.0.0.0:*", store=store_of(store, "a", "b", tmp_path))) as server:
        endpoint = server.endpoint.replace("0.0.0.0", "127.0.0.1")
        keys = {name: keys_of(tmp_path / f"{name}.json") for name in "ab"}
        with WireClient(endpoint, keys=keys["a"]) as client:
            client.hello()
            own, other = ask(endpoint, keys["a"]), ask(endpoint, keys["b"])
            everything = ask(endpoint, find_keys(endpoint, store, tmp_path / "none"))
        assert [track.user for track in own.track_reports] == ["a"]
        assert (other.tracks, other.track_reports) == (1, [])
        assert [track.user for track in everything.track_reports] == ["a"]
        assert (own.backend_reason, everything.backend_reason) == ("", "eager: asked for by name")


def store_of(store, *names_and_folder):
    *names, folder = names_and_folder
    for name in names:
        new_client(store, name, folder / f"{name}.json", "tcp://127.0.0.1:47800")
    return store


def keys_of(path):
    found = read_credentials(path)
    return Keys(found.server, KeyPair(found.public, found.secret))


def test_keys_are_found_by_the_endpoint_or_are_the_servers_own(tiny, store, tmp_path):
    engines = tmp_path / "engines"
    engines.mkdir()
    store_of(store, "a", tmp_path)
    with running(Server(Engine(tiny), "tcp://0.0.0.0:*", store=store)) as server:
        endpoint = server.endpoint.replace("0.0.0.0", "127.0.0.1")
        assert find_keys(endpoint, store, engines).own.public == store.server().public
        with pytest.raises(DemonError, match=r"E_KEYS.*credential file"):
            find_keys(endpoint, KeyStore(tmp_path / "nobody"), engines)
        new_client(store, "b", engines / "b.json", endpoint)
        found = find_keys(endpoint, store, engines)
        assert found == keys_of(engines / "b.json")
        stranger = Keys(found.server, make_pair())
        with pytest.raises(DemonError, match="does not allow this key"):
            ask(endpoint, stranger)


def test_a_key_that_is_refused_before_anything_is_asked_does_not_wait_for_ever(tiny, store, tmp_path, monkeypatch):
    """ZeroMQ ends the connection for good then, and there is nowhere to send to."""
    connect = zmq.Socket.connect
    monkeypatch.setattr(zmq.Socket, "connect", lambda socket, where: (connect(socket, where), time.sleep(0.5)))
    with running(Server(Engine(tiny), "tcp://0.0.0.0:*", store=store_of(store, "a", tmp_path))) as server:
        endpoint = server.endpoint.replace("0.0.0.0", "127.0.0.1")
        with pytest.raises(DemonError, match="does not allow this key"):
            ask(endpoint, Keys(store.server().public, make_pair()))


def test_no_client_can_be_called_as_the_server_is(store):
    with pytest.raises(DemonError, match="E_KEYS"):
        store.allow(THIS_MACHINE, make_pair().public)


def test_nothing_is_asked_of_another_machine_in_the_clear():
    with pytest.raises(DemonError, match="E_KEYS"):
        ask("tcp://192.0.2.1:47800", None)


# Gateways


def test_a_gateway_names_its_engines_and_each_is_asked(server):
    class Fleet:
        def places(self):
            port = server.endpoint.rpartition(":")[2]
            return [Place(f"tcp://*:{port}", "", 3, 64), Place("tcp://127.0.0.1:9", "", 0, 64)]

    with running(Gateway("tcp://127.0.0.1:*"), Fleet()) as gateway:
        first, alive, gone = ask_all(gateway.endpoint)
    assert [(place.tracks, place.most_tracks) for place in first.report.engines] == [(3, 64), (0, 64)]
    assert alive.endpoint == server.endpoint
    assert isinstance(alive.report, EngineReport)
    assert gone.report is None
    assert "E_LINK" in gone.error


# What does not answer


@pytest.mark.parametrize("endpoint", ["studio", "tcp://127.0.0.1", "tcp://127.0.0.1:0", "ipc://x", ""])
def test_what_is_no_address_is_not_asked(endpoint):
    with pytest.raises(DemonError, match="E_ENDPOINT"):
        ask_all(endpoint)


def test_a_port_where_nothing_listens(tmp_path):
    with pytest.raises(DemonError, match=r"E_LINK.*nothing listens"):
        ask_all("tcp://127.0.0.1:9")


def test_a_credential_file_of_another_engine_may_be_damaged(server, tmp_path, monkeypatch):
    monkeypatch.setattr(ask_module, "ask_greeting", lambda host, port: "CURVE")
    store, engines = KeyStore(tmp_path / "keys"), tmp_path / "engines"
    engines.mkdir()
    (engines / "a.json").write_text("{}")
    with pytest.raises(DemonError, match="E_KEYS"):
        find_keys("tcp://127.0.0.1:47800", store, engines)
    new_client(store, "laptop", engines / "b.json", "tcp://127.0.0.1:47800")
    found = find_keys("tcp://127.0.0.1:47800", store, engines)
    assert found.server == store.server().public
    assert found.own.public != found.server


# Table and JSON


def text_of(answers, before=(), width=200):
    console = Console(width=width, file=io.StringIO())
    console.print(draw(answers, before))
    return console.file.getvalue()


def test_the_table_names_tracks_and_takes_the_load_since_the_last_look(server):
    with WireClient(server.endpoint) as client:
        client.hello(client="studio 1.0 [bold]")
        before = ask_all(server.endpoint)
    drawn = text_of(before)
    assert before[0].report.track_reports[0].track in drawn
    assert "studio 1.0 [bold]" in drawn
    report = before[0].report
    process = msgspec.structs.replace(
        report.process, up_s=report.process.up_s + 10, cpu_s=report.process.cpu_s + 13, memory_bytes=3 * 2**30
    )
    later = [Answer(server.endpoint, msgspec.structs.replace(report, process=process))]
    assert " 130 % " in text_of(later, before)
    assert "3072 MiB" in text_of(later, before)
    assert "E_LINK: it is gone" in text_of([Answer("tcp://127.0.0.1:9", None, "E_LINK: it is gone")], before)


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_a_narrow_terminal_gets_fewer_columns_and_whole_names(server, width):
    with WireClient(server.endpoint) as client:
        client.hello(client="DEMON 0.1.0")
        answers = ask_all(server.endpoint)
    drawn = text_of(answers, width=width)
    assert max(map(len, drawn.splitlines())) <= width
    assert "\u2026" not in drawn
    assert server.endpoint in drawn
    assert answers[0].report.track_reports[0].track in drawn
    headings = drawn.split()
    assert {"server", "processor", "track", "per", "late", "worst", "skipped"} <= set(headings)
    assert ("files" in headings) == (width == 160)


def test_the_command_prints_a_table_or_json(server):
    runner = CliRunner()
    drawn = runner.invoke(app, ["status", "--endpoint", server.endpoint])
    assert drawn.exit_code == 0
    assert server.endpoint in drawn.output
    assert f"0 of {MAX_TRACKS}" in drawn.output
    printed = runner.invoke(app, ["status", "--endpoint", server.endpoint, "--json"])
    (row,) = json.loads(printed.output)
    assert row["report"]["kind"] == "engine"
    assert row["endpoint"] == server.endpoint
    gone = runner.invoke(app, ["status", "--endpoint", "tcp://127.0.0.1:9"])
    assert gone.exit_code == 1


# Metrics


def scrape(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {(s.name, s.labels.get("code", "")): s for family in families for s in family.samples}


def test_metrics_follow_the_server(server, free_port):
    with own_metrics(str(free_port)) as on_serving:
        assert scrape(free_port)["demon_up", ""].value == 0
        on_serving(server.endpoint)
        with WireClient(server.endpoint) as client:
            client.ping()
            client.wait_for(m.Error, code="E_UNKNOWN_TRACK")
            client.hello()
            found = scrape(free_port)
        assert found["demon_up", ""].value == 1
        assert found["demon_up", ""].labels == {"server": server.endpoint}
        assert found["demon_tracks", ""].value == 1
        assert found["demon_refusals_total", "E_UNKNOWN_TRACK"].value == 1
        assert found["demon_engine_info", ""].labels["checkpoint_hash"] == server.checkpoint.content_hash
        assert found["demon_process_resident_memory_bytes", ""].value > 2**20
        assert found["demon_link_cpu_seconds_total", ""].value < found["demon_process_cpu_seconds_total", ""].value
    with pytest.raises(urllib.error.URLError):
        scrape(free_port)


def test_an_address_for_metrics_that_is_none_or_taken_is_named(free_port):
    for wrong in ("", "x", "127.0.0.1", "1:2:3", "70000"):
        with pytest.raises(DemonError, match=r"E_BIND.*--metrics"):
            serve_metrics(wrong, list)
    stop = serve_metrics(f"127.0.0.1:{free_port}", list)
    try:
        with pytest.raises(DemonError, match=r"E_BIND.*--metrics"):
            serve_metrics(str(free_port), list)
    finally:
        stop()


@pytest.fixture
def free_port():
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
