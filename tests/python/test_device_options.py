# SPDX-License-Identifier: Apache-2.0
"""`--device` and `--backend`: every command passes them on, to processes and nodes too, and what cannot be is told at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from test_cli import demon, tone

from engine_server import cli
from engine_server.cluster import start as cluster_start
from engine_server.cluster.engine_actor import EngineActor, EngineSettings
from engine_server.model import auto_backend
from engine_server.model import placement as placement_module
from engine_server.model.backends import Choice
from engine_server.serve import fleet as fleet_module
from engine_server.serve import handles, logs
from engine_server.serve import serve_engine as serve_engine_module
from engine_server.serve import serve_engines as serve_engines_module
from engine_server.serve import warm_up as warm_up_module
from engine_server.serve.fleet import LocalFleet
from engine_server.serve.gpus import visible_gpus
from shared_protocol.errors import DemonError

no_gpu = pytest.mark.skipif(
    torch.cuda.is_available(), reason="there is an NVIDIA GPU here: tells what is said without one"
)


@pytest.fixture(autouse=True)
def unchanged_process(monkeypatch):
    """`demon serve` sets up its process, which here is everybody's."""
    monkeypatch.setattr(logs, "configure_logging", lambda *_: None)
    monkeypatch.setattr(handles, "raise_handle_limit", lambda: None)
    hangup = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, hangup)


@pytest.fixture
def loads(monkeypatch):
    """What checkpoints are loaded with; none is."""
    seen = []

    def load(name, **options):
        seen.append({what: options[what] for what in ("device", "backend")})
        raise DemonError("E_STOP", "enough was seen")

    monkeypatch.setattr(auto_backend, "load_chosen", load)
    return seen


OPTIONS = ["--device", "cuda:1", "--backend", "compile"]
LOADED = {"device": "cuda:1", "backend": "compile"}


@pytest.mark.parametrize(("options", "expected"), [(OPTIONS, LOADED), ([], {"device": "auto", "backend": "auto"})])
def test_commands_load_the_checkpoint_as_they_are_told(loads, tmp_path, options, expected):
    source = tone(tmp_path / "in.wav")
    for command in (["render", source, "--out", tmp_path / "out.wav"], ["serve", "--endpoint", "tcp://127.0.0.1:*"]):
        assert "E_STOP" in demon(*command, *options).stderr
    assert loads == [expected, expected]


def test_doctor_looks_at_the_device_that_is_named(monkeypatch):
    seen = []

    def place(device, dtype):
        seen.append(device)
        raise DemonError("E_STOP", "enough was seen")

    monkeypatch.setattr(placement_module, "placement", place)
    done = demon("doctor", "--device", "cuda:1", "--json", "--endpoint", "tcp://127.0.0.1:1")
    assert set(seen) == {"cuda:1"}
    assert done.stdout.count("E_STOP") == 1


def test_an_engine_that_is_loaded_anew_keeps_the_backend_that_auto_took(monkeypatch):
    asked = []

    def load_engine(*_, backend, **__):
        asked.append(backend)
        return SimpleNamespace(checkpoint=SimpleNamespace(choice=Choice("compile", "measured")))

    monkeypatch.setattr(cli, "load_engine", load_engine)
    monkeypatch.setattr(warm_up_module, "warm_up", lambda *_: None)
    monkeypatch.setattr(serve_engine_module, "serve_engine", lambda _, load, **__: [load() for _ in range(3)])
    demon("serve", "--endpoint", "tcp://127.0.0.1:*")
    assert asked == ["auto", "compile", "compile"]


def test_engines_behind_a_gateway_are_told(monkeypatch):
    calls = []
    monkeypatch.delenv("DEMON_DEVICE")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setattr(serve_engines_module, "serve_engines", lambda *given, **named: calls.append((given, named)))
    for device, gpus in {"auto": ["4", "5"], "cuda": ["4", "5"], "cuda:1": [], "cpu": []}.items():
        demon("serve", "--engines", 2, "--device", device, "--backend", "compile")
        (_, count, options), named = calls.pop()
        assert count == 2
        assert " ".join(options).count(f"--device {device} --backend compile") == 1
        assert named["gpus"] == gpus


def test_engines_of_a_fleet_get_gpus_in_turn(monkeypatch):
    environments = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setattr(fleet_module, "EngineProcess", lambda command, environment: environments.append(environment))
    LocalFleet(3, "tcp://127.0.0.1:47800", [], ["4", "5"])
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == ["4", "5", "4"]
    environments.clear()
    LocalFleet(2, "tcp://127.0.0.1:47800", [])
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == ["4,5", "4,5"]


@pytest.mark.parametrize(
    ("variable", "files", "expected"),
    [
        (None, [], []),
        (None, ["nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm"], ["0", "1"]),
        ("", ["nvidia0"], []),
        ("-1", ["nvidia0"], []),
        ("2, 0", ["nvidia0"], ["2", "0"]),
        ("1,-1,0", ["nvidia0"], ["1"]),
        ("GPU-8932f937,MIG-1", [], ["GPU-8932f937", "MIG-1"]),
    ],
)
def test_gpus_are_those_that_cuda_would_show(tmp_path, variable, files, expected):
    for name in files:
        (tmp_path / name).touch()
    environment = {} if variable is None else {"CUDA_VISIBLE_DEVICES": variable}
    assert visible_gpus(environment, tmp_path) == expected


def test_a_clusters_engines_are_told(monkeypatch):
    settings = []

    def see(address, endpoint, engines, need, given, **_):
        settings.append(given)

    monkeypatch.setattr(cluster_start, "serve_cluster", see)
    assert demon("cluster", "start", "--engines", 2, "--gpus", 1, *OPTIONS).exit_code == 0
    assert (settings[0].device, settings[0].backend) == ("cuda:1", "compile")
    refused = demon("cluster", "start", "--engines", 2, "--device", "cuda")
    assert refused.exit_code == 1
    assert "E_DEVICE" in refused.stderr
    assert "--gpus 1" in refused.stderr
    monkeypatch.setenv("DEMON_DEVICE", "cuda")
    assert "--gpus 1" in demon("cluster", "start", "--engines", 2).stderr
    assert len(settings) == 1
    monkeypatch.delenv("DEMON_DEVICE")
    for gpus, device in ((0, "cpu"), (1, "auto")):
        assert demon("cluster", "start", "--engines", 2, "--gpus", gpus).exit_code == 0
        assert settings[-1].device == device

    loaded = []

    def load(*_, **options):
        loaded.append(options)
        raise DemonError("E_STOP", "enough was seen")

    monkeypatch.setattr(cli, "load_engine", load)
    actor = EngineActor(EngineSettings("embedded", 4, (), torch.get_num_threads(), 0, "", **LOADED), "127.0.0.1")
    actor._thread.join(60)
    assert loaded == [LOADED]
    assert "E_STOP" in actor.report(None).reason


@pytest.mark.parametrize("device", ["tpu", "cuda:", "cuda:x", ""])
@pytest.mark.parametrize("command", [["serve"], ["serve", "--engines", "2"], ["cluster", "start", "--engines", "1"]])
def test_a_device_that_nobody_knows_is_refused_before_anything_is_loaded(loads, command, device):
    done = demon(*command, "--device", device)
    assert done.exit_code == 1
    assert f"E_DEVICE: device is {device!r}; auto, cpu, cuda or cuda:N is expected" in done.stderr
    assert not loads


def test_a_backend_that_nobody_knows_is_refused(tmp_path):
    done = demon("render", tone(tmp_path / "in.wav"), "--out", tmp_path / "out.wav", "--backend", "abacus")
    assert done.exit_code == 2
    assert "compile" in done.stderr


@no_gpu
@pytest.mark.parametrize(
    "command", [["render", "SOURCE", "--out", "OUT"], ["serve", "--endpoint", "tcp://127.0.0.1:*"]]
)
def test_cuda_without_a_gpu_says_what_to_do(tiny_folder, tmp_path, command):
    names = {"SOURCE": str(tone(tmp_path / "in.wav")), "OUT": str(tmp_path / "out.wav")}
    done = demon(*(names.get(word, word) for word in command), "--model", tiny_folder, "--device", "cuda")
    assert done.exit_code == 1
    assert "E_DEVICE: device is 'cuda', and no GPU can be used here" in done.stderr
    assert "take device cpu" in done.stderr


def test_the_cpu_is_the_same_by_name_by_backend_and_by_default(tiny_folder, tmp_path):
    source, receipts = tone(tmp_path / "in.wav", seconds=1.0), []
    for number, options in enumerate([["--device", "cpu"], ["--device", "cpu", "--backend", "eager"], []]):
        if not options and torch.cuda.is_available():
            continue
        out = tmp_path / f"{number}.wav"
        done = demon("render", source, "--model", tiny_folder, "--out", out, *options)
        assert done.exit_code == 0, done.stderr
        receipts.append(json.loads(out.with_suffix(".receipt.json").read_text()))
    assert all(receipt == receipts[0] for receipt in receipts)
    assert receipts[0]["backend"] == f"eager cpu float32, {torch.get_num_threads()} threads"


def test_the_devices_name_is_told_without_torch():
    """So that a wrong name costs no ten seconds."""
    check = "import sys, engine_server.device_name; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
