# SPDX-License-Identifier: Apache-2.0
"""`demon doctor`: what each check says of a machine that is well, and of one that is not."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import resource
import socket
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import zmq
from track_rig import write_lora
from typer.testing import CliRunner

from engine_server.cli import app
from engine_server.doctor import engine as engine_module
from engine_server.doctor.engine import check_engine
from engine_server.doctor.finding import Finding, Status, fail, ok, run_checks, warn
from engine_server.doctor.gpu import check_gpu
from engine_server.doctor.keys import check_keys
from engine_server.doctor.model import check_lora_folders, check_model
from engine_server.doctor.plugin import BUNDLE, check_plugin
from engine_server.doctor.ports import check_ports, find_holder
from engine_server.doctor.report import all_checks, examine
from engine_server.doctor.software import check_environment, check_packages, check_python
from engine_server.doctor.system import FREE_NEEDED, FREE_WANTED, check_disk, check_limits
from engine_server.model.row_bits import dependent_rows
from engine_server.model.track_sizes import TrackSizes
from engine_server.serve import greeting, handles
from engine_server.serve.credentials import new_client
from engine_server.serve.gateway import Gateway, Place
from engine_server.serve.greeting import ask_greeting
from engine_server.serve.keys import KeyStore, make_pair
from engine_server.serve.report import SERVER
from engine_server.serve.server import Server
from engine_server.status import ask as ask_module
from engine_server.tracks.engine import Engine
from shared_protocol.errors import DemonError

OK, WARN, FAIL = Status.OK, Status.WARN, Status.FAIL


def statuses(findings):
    return [finding.status for finding in findings]


def every_text(findings):
    return " ".join(f"{finding.detail} {finding.advice}" for finding in findings)


def demon_doctor(*arguments):
    done = CliRunner().invoke(app, ["doctor", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


# --- running and reporting


def test_a_check_that_fails_itself_is_a_finding_and_stops_no_other():
    def faint():
        raise RuntimeError("oh")

    def refuse():
        raise DemonError("E_KEYS", "run: chmod")

    found = list(run_checks([("a", faint), ("b", refuse), ("c", lambda: [ok("c", "fine")])]))
    assert statuses(found) == [FAIL, FAIL, OK]
    assert [finding.check for finding in found] == ["a", "b", "c"]
    assert "RuntimeError: oh" in found[0].detail
    assert "E_KEYS: run: chmod" in found[1].detail


@pytest.mark.parametrize(
    ("findings", "healthy"),
    [([], True), ([ok("a", "x")], True), ([warn("a", "x", "y")], True), ([fail("a", "x"), ok("b", "y")], False)],
)
def test_only_a_failure_is_unhealthy(findings, healthy, capsys):
    for as_json in (False, True):
        assert examine([("a", lambda: findings)], as_json=as_json) is healthy
        said = capsys.readouterr().out
    report = json.loads(said)
    assert report["ok"] is healthy
    assert [Finding(**finding) for finding in report["findings"]] == findings


def test_a_line_is_not_read_as_markup(capsys):
    examine([("a", lambda: [warn("a", "[red]x[/red] [/]", "[bold]")])], as_json=False)
    assert "[red]x[/red] [/] -> [bold]" in capsys.readouterr().out


def test_the_command_checks_this_machine_with_a_model(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    free = free_port()
    done = demon_doctor("--model", tiny_folder, "--endpoint", f"tcp://127.0.0.1:{free}", "--json")
    report = json.loads(done.stdout)
    by_check = {finding["check"]: finding for finding in report["findings"]}
    assert set(by_check) == {
        "python", "packages", "rounding", "threads", "limits", "disk", "ports", "keys", "plugin", "gpu", "tensorrt", "backend",
        "checkpoint", "rows", "loras",
    }  # fmt: skip
    assert by_check["rows"]["status"] == by_check["checkpoint"]["status"] == "ok"
    assert done.exit_code == (0 if report["ok"] else 1)
    wrong = demon_doctor("--quick", "--endpoint", "nowhere", "--model", tiny_folder)
    assert wrong.exit_code == 1
    assert "fail  ports" in wrong.stdout


def test_a_missing_checkpoint_is_a_failure_with_its_code(tmp_path):
    checks = dict(all_checks("no-such-model", "tcp://127.0.0.1:1", quick=False))
    (found,) = run_checks([("checkpoint", checks["checkpoint"])])
    assert found.status is FAIL
    assert "E_NO_CHECKPOINT" in found.detail


# --- software


def test_an_old_python_is_refused():
    assert statuses(check_python((3, 11, 0))) == [OK]
    assert statuses(check_python((3, 10, 9))) == [FAIL]


def test_packages_that_are_missing_or_of_other_versions_are_named():
    def version(name):
        if name == "absent":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.5"

    def look(*lines):
        return check_packages(lambda _: lines, version)

    assert statuses(look("one>=1", 'other>=9; extra == "test"')) == [OK]
    assert "absent is missing" in every_text(look("one>=1", "absent"))
    (found,) = look("one>=2,<3")
    assert found.status is FAIL
    assert "one is 1.5, not <3,>=2" in found.detail

    def nothing(_):
        raise importlib.metadata.PackageNotFoundError("demon-bridge")

    assert statuses(check_packages(nothing, version)) == [WARN]


def test_variables_that_change_bits_or_speed_are_named():
    good = {"MKL_CBWR": "AUTO,STRICT", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    assert statuses(check_environment(good)) == [OK, OK]
    assert statuses(check_environment({})) == [WARN, WARN]
    assert statuses(check_environment(good | {"MKL_CBWR": "AVX2"})) == [WARN, OK]
    assert statuses(check_environment(good | {"OMP_WAIT_POLICY": "ACTIVE"})) == [OK, WARN]


# --- model


def test_rows_of_a_real_decoder_are_strangers(tiny):
    assert dependent_rows(tiny.decoder, replace(tiny.track_sizes, frames=40, tokens=16)) == []


class Leaky:
    """A decoder whose rows depend on what they should not."""

    def __init__(self, leak):
        self._leak = leak

    def encode(self, states, mask, adapters=None):
        return (states,)

    def __call__(self, x, t, context, condition, adapters=None):
        return x + self._leak(x)


@pytest.mark.parametrize(
    ("leak", "found"),
    [
        (lambda x: 0.0 * x, []),
        (lambda x: x.mean(), ["its neighbours"]),
        (lambda x: torch.arange(len(x), dtype=x.dtype)[:, None, None] * 1e-7, ["its place"]),
    ],
)
def test_rows_that_leak_are_found(leak, found):
    # The mean is rounded by the order of rows, which may make it depend on the place too.
    result = dependent_rows(Leaky(leak), TrackSizes(frames=3, tokens=2, width=2, channels=2))
    assert [one for one in result if one in found] == found
    assert bool(result) == bool(found)


def test_rows_that_leak_fail_the_machine(tiny, tmp_path):
    broken = SimpleNamespace(**{name: getattr(tiny, name) for name in (
        "name", "content_hash", "backend", "track_sizes", "placement")},
        decoder=Leaky(lambda x: x.mean()))  # fmt: skip
    findings = check_model("x", [], quick=False, load=lambda: broken)
    assert statuses(findings) == [OK, FAIL]
    assert "neighbours" in findings[1].detail


def test_a_checkpoint_is_told_with_its_hash_and_quick_loads_none(tiny, tiny_folder, tmp_path):
    assert tiny.content_hash in check_model("x", [], quick=False, load=lambda: tiny)[0].detail
    assert statuses(check_model(str(tiny_folder), [], quick=True, load=None)) == [OK]
    assert statuses(check_model("embedded", [], quick=True, load=None)) == [OK]
    assert statuses(check_model("some/name", [], quick=True, load=None)) == [WARN]


def test_lora_folders_that_cannot_be_read_are_named(tiny, tmp_path, monkeypatch):
    folder = tmp_path / "loras"
    assert statuses(check_lora_folders([folder])) == [OK]
    folder.mkdir()
    write_lora(folder / "choir.safetensors", tiny)
    assert "choir" in check_lora_folders([folder], tiny)[0].detail
    (folder / "broken.safetensors").write_bytes(b"x")
    assert statuses(check_lora_folders([folder], tiny)) == [WARN]
    (tmp_path / "file").write_text("")
    assert statuses(check_lora_folders([tmp_path / "file"])) == [FAIL]
    with monkeypatch.context() as patch:  # root may read everything, so permissions are told by a stand-in
        patch.setattr(os, "access", lambda path, *_: path == folder)
        assert "cannot be read: " in check_lora_folders([folder])[0].detail
        patch.setattr(os, "access", lambda *_: False)
        assert f"chmod u+rx '{folder}'" in check_lora_folders([folder])[0].advice


# --- GPU


def fake_torch(*, available, cuda, add=lambda _: SimpleNamespace(cpu=lambda: [2.0])):
    properties = SimpleNamespace(name="Test GPU", total_memory=8 * 2**30, major=9, minor=0)
    return SimpleNamespace(
        __version__="2.0", version=SimpleNamespace(cuda=cuda), ones=lambda *_, **__: SimpleNamespace(add=add),
        cuda=SimpleNamespace(
            is_available=lambda: available, device_count=lambda: 1, get_device_properties=lambda _: properties
        ),
    )  # fmt: skip


def test_a_gpu_is_usable_or_it_is_said_why_not(tmp_path):
    there, nowhere = tmp_path / "nvidiactl", tmp_path / "none"
    there.touch()
    assert statuses(check_gpu(fake_torch(available=False, cuda=None), nowhere)) == [OK]
    (cpu_build,) = check_gpu(fake_torch(available=False, cuda=None), there)
    assert (cpu_build.status, "for the CPU only" in cpu_build.detail) == (WARN, True)
    assert "PyTorch's build for CUDA" in cpu_build.advice
    assert statuses(check_gpu(fake_torch(available=False, cuda="13.0"), there)) == [WARN]
    (good,) = check_gpu(fake_torch(available=True, cuda="13.0"), there)
    assert (good.status, "Test GPU, 8 GiB" in good.detail) == (OK, True)

    def full(_):
        raise RuntimeError("CUDA error: out of memory\nmore")

    (bad,) = check_gpu(fake_torch(available=True, cuda="13.0", add=full), there)
    assert bad.status is WARN
    assert bad.detail.endswith("out of memory")
    assert statuses(check_gpu()) in ([OK], [WARN], [OK, OK])


# --- engine


@contextlib.contextmanager
def serving(server):
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server.endpoint
    finally:
        server.stop()
        thread.join(60)


def test_an_engine_is_asked_how_it_is(tiny, monkeypatch):
    with serving(Server(Engine(tiny), "tcp://127.0.0.1:*")) as endpoint:
        (finding,) = check_engine(endpoint)
        assert finding == ok("engine", f"{endpoint}: {SERVER}, tiny, 0 tracks")
        monkeypatch.setattr(engine_module, "SERVER", "demon-bridge 99")
        (finding,) = check_engine(endpoint)
        assert (finding.status, "this is demon-bridge 99" in finding.detail) == (WARN, True)


def test_behind_a_gateway_all_engines_are_asked(tiny):
    class Fleet:
        def places(self):
            return [Place(endpoint, "", 0, 64), Place(f"tcp://*:{free_port()}", "", 0, 64)]

    gateway = Gateway("tcp://127.0.0.1:*")
    thread = threading.Thread(target=gateway.run, args=[Fleet()])
    with serving(Server(Engine(tiny), "tcp://127.0.0.1:*")) as endpoint:
        thread.start()
        try:
            first, good, bad = check_engine(gateway.endpoint)
        finally:
            gateway.stop()
            thread.join(60)
    assert "a gateway to 2 engines" in first.detail
    assert (first.status, good.status, bad.status) == (OK, OK, FAIL)


def test_what_listens_and_does_not_answer_is_no_engine(monkeypatch):
    monkeypatch.setattr(ask_module, "ANSWER_MS", 100)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        port = router.bind_to_random_port("tcp://127.0.0.1")
        assert statuses(check_engine(f"tcp://127.0.0.1:{port}")) == [FAIL]


def test_where_nothing_listens_there_is_no_engine_to_ask():
    assert check_engine(f"tcp://127.0.0.1:{free_port()}") == []


# --- ports


def free_port():
    """A port with a free one after it."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as one:
            port = one.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
            return port


def test_free_ports_are_free():
    findings = check_ports(f"tcp://127.0.0.1:{free_port()}")
    assert statuses(findings) == [OK, OK]
    assert "is free" in findings[0].detail


@pytest.mark.parametrize("keys", [False, True])
def test_an_engine_that_serves_is_told_with_its_mechanism(keys):
    port = free_port()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        if keys:
            router.curve_server = 1
            router.curve_secretkey = make_pair().secret.encode()
        router.bind(f"tcp://127.0.0.1:{port}")
        findings = check_ports(f"tcp://127.0.0.1:{port}", lambda _: "demon, process 7")
        assert ("CURVE" if keys else "without keys") in findings[0].detail
        assert "demon, process 7" in findings[0].detail
        assert statuses(findings) == [OK, OK]
        assert not router.poll(200)  # the visit reached no application


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\xff" * 64])
def test_a_port_that_something_else_holds_is_a_failure(answer, monkeypatch):
    monkeypatch.setattr(greeting, "ANSWER_S", 1.0)
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as other:

        def serve():
            with other.accept()[0] as one:
                one.sendall(answer)
                one.recv(64)

        threading.Thread(target=serve, daemon=True).start()
        findings = check_ports(f"tcp://127.0.0.1:{port}")
    assert statuses(findings) == [FAIL, OK]
    assert f"{port} is taken by something that is no engine" in findings[0].detail
    if os.path.exists("/proc/net/tcp"):
        assert f"process {os.getpid()}" in findings[0].detail


def test_the_audio_port_counts_too():
    port = free_port()
    with socket.create_server(("127.0.0.1", port + 1), backlog=1):
        assert statuses(check_ports(f"tcp://127.0.0.1:{port}")) == [OK, FAIL]


@pytest.mark.parametrize(
    "endpoint", ["", "nowhere", "tcp://127.0.0.1", "tcp://x:0", "tcp://127.0.0.1:65535", "ipc://x"]
)
def test_what_is_no_address_is_a_failure(endpoint):
    assert statuses(check_ports(endpoint)) == [FAIL]


def test_an_address_of_another_machine_is_a_failure():
    findings = check_ports("tcp://192.0.2.1:47800")  # reserved for documentation
    assert statuses(findings) == [FAIL, FAIL]


def test_nobody_listens_on_a_free_port():
    port = free_port()
    assert ask_greeting("127.0.0.1", port) is None
    assert find_holder(port) == ""


# --- plugin


def bundle(folder, *, machine="x86_64", content=b"\x7fELF..."):
    binary = folder / BUNDLE / "Contents" / f"{machine}-linux" / "DEMON.so"
    binary.parent.mkdir(parents=True)
    binary.write_bytes(content)
    return folder


def test_a_bundle_is_found_where_daws_look(tmp_path):
    home, system, built = (tmp_path / name for name in ("home", "system", "build"))

    def look():
        return check_plugin([home, system], built, machine="x86_64")

    assert statuses(look()) == [WARN]
    bundle(built)
    assert "no DAW looks there" in look()[0].detail
    bundle(home)
    assert (statuses(look()), "not stated" in look()[0].detail) == ([OK], True)
    (home / BUNDLE / "Contents" / "Resources").mkdir()
    (home / BUNDLE / "Contents" / "Resources" / "moduleinfo.json").write_text('{"Version": "0.1.0"}')
    assert "version 0.1.0" in look()[0].detail
    bundle(system)
    assert statuses(look()) == [OK, OK, WARN]


def test_a_bundle_for_another_machine_or_cut_short_is_a_failure(tmp_path):
    assert statuses(check_plugin([bundle(tmp_path / "a", machine="aarch64")], machine="x86_64")) == [FAIL]
    assert statuses(check_plugin([bundle(tmp_path / "b", content=b"")], machine="x86_64")) == [FAIL]


# --- keys


LOOPBACK = "tcp://127.0.0.1:47800"


def test_an_endpoint_beyond_this_machine_needs_keys(tmp_path):
    store, engines = KeyStore(tmp_path / "keys"), tmp_path / "engines"
    (found,) = check_keys("tcp://0.0.0.0:47800", store, engines)
    assert found.status is FAIL
    assert "demon keys new" in found.detail
    new_client(store, "laptop", tmp_path / "laptop.json", "tcp://studio:47800")
    assert statuses(check_keys("tcp://0.0.0.0:47800", store, engines)) == [OK]


def test_keys_are_told_without_secrets(tmp_path):
    store, engines = KeyStore(tmp_path / "keys"), tmp_path / "engines"
    assert "this machine only" in check_keys(LOOPBACK, store, engines)[0].detail
    store.allow("early", make_pair().public)
    assert statuses(check_keys(LOOPBACK, store, engines)) == [WARN]
    engines.mkdir()
    made = new_client(store, "laptop", engines / "studio.json", "tcp://studio:47800")
    findings = check_keys(LOOPBACK, store, engines)
    assert statuses(findings) == [OK, OK]
    assert "early, laptop" in findings[0].detail
    (engines / "again.json").write_bytes((engines / "studio.json").read_bytes())
    (engines / "again.json").chmod(0o600)
    (engines / "open.json").write_text("{}")
    (engines / "open.json").chmod(0o644)
    findings += check_keys(LOOPBACK, store, engines)
    assert sorted(statuses(findings)[2:]) == [FAIL, OK, OK, OK, WARN]
    said = every_text(findings)
    assert made.secret not in said
    assert store.server().secret not in said


def test_keys_that_others_may_read_are_a_failure(tmp_path):
    store = KeyStore(tmp_path / "keys")
    store.server()
    store.server_file.chmod(0o644)
    (found,) = run_checks([("keys", lambda: check_keys(LOOPBACK, store, tmp_path / "engines"))])
    assert found.status is FAIL
    assert "chmod 600" in found.detail


# --- disk and limits


def test_a_full_disk_is_told_before_the_bounce(tmp_path):
    folder = tmp_path / "not" / "there"
    for free, status in ((FREE_WANTED, OK), (FREE_WANTED - 1, WARN), (FREE_NEEDED, WARN), (FREE_NEEDED - 1, FAIL)):
        assert statuses(check_disk(folder, lambda _, free=free: free)) == [status]
    assert not folder.parent.exists()


def test_a_data_folder_that_cannot_be_written_to_is_a_failure(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert statuses(check_disk(tmp_path / "file" / "folder")) == [FAIL]
    monkeypatch.setattr(os, "access", lambda *_: False)
    (found,) = check_disk(tmp_path)
    assert (found.status, "XDG_DATA_HOME" in found.advice) == (FAIL, True)


@pytest.mark.parametrize(
    ("hard", "status"),
    [(handles.PLAYING_HANDLES - 1, FAIL), (handles.PLAYING_HANDLES, WARN), (handles.BESIEGED_HANDLES, OK),
     (resource.RLIM_INFINITY, OK)],
)  # fmt: skip
def test_too_few_file_descriptors_are_told(hard, status):
    findings = check_limits(lambda _: (min(hard, 1024), hard))
    assert statuses(findings) == [status, OK]


def test_a_server_takes_the_file_descriptors_it_may(monkeypatch):
    limits = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    assert handles.raise_handle_limit() == 4096
    assert limits[1:] == [(4096, 4096)]
    assert handles.raise_handle_limit() == 4096
    limits.append((1024, 10**6))
    assert handles.raise_handle_limit() == handles.BESIEGED_HANDLES

    def refuse(*_):
        raise OSError

    limits.append((1024, 2048))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert handles.raise_handle_limit() == 1024
