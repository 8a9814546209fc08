# SPDX-License-Identifier: Apache-2.0
"""What `demon doctor` says of TensorRT, of its engines, and of the backend that `auto` takes."""

from __future__ import annotations

import json

import msgspec
import pytest
import torch
from device_rig import simulated_gpu
from own_engine_rig import MACHINE, OwnEngines, SimulatedTensorRt
from test_cli import demon

from engine_server.doctor.backend import check_backend, check_tensorrt, load, look_at
from engine_server.doctor.finding import Status
from engine_server.model import auto_backend
from engine_server.model.auto_backend import load_chosen
from engine_server.model.backend_record import Measured, folder
from shared_protocol.errors import DemonError
from trt_engines import tensorrt_library

OK, WARN = Status.OK, Status.WARN


@pytest.fixture
def own(tiny_folder, tmp_path, monkeypatch):
    for variable in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return OwnEngines(tiny_folder)


@pytest.fixture
def tensorrt(own, monkeypatch, tiny_folder):
    with simulated_gpu(monkeypatch):
        yield SimulatedTensorRt(monkeypatch, tiny_folder)


@pytest.fixture
def times(monkeypatch):
    """What every backend takes, without trying any."""
    given = {"tensorrt": 3.0, "eager": 30.0, "compile": 40.0}
    monkeypatch.setattr(auto_backend, "probe", lambda backend, *_, **__: Measured(backend, given[backend]))
    return given


def looked_at(model, device="cuda"):
    return look_at(str(model), device, [])


def told(findings):
    return [(finding.status, finding.detail, finding.advice) for finding in findings]


def build(model):
    return f"run: demon engines build --checkpoint {model} --decoder-only --duration 60 --precision mixed"


def test_on_a_cpu_tensorrt_is_no_loss(own, tiny_folder, monkeypatch):
    ground = looked_at(tiny_folder, "cpu")
    (found,) = check_tensorrt(ground)
    assert (found.status, found.advice) == (OK, "")

    def absent():
        raise DemonError("E_BACKEND", "TensorRT is not here")

    monkeypatch.setattr(tensorrt_library, "load_tensorrt", absent)
    (found,) = check_tensorrt(ground)
    assert (found.status, found.advice) == (OK, "")
    (found,) = check_backend(ground, measures=False)
    assert found.detail.startswith("auto takes eager: it runs wherever PyTorch does; ")
    assert f"demon doctor --measure-backends --model {tiny_folder} --device cpu" in found.detail


def test_a_gpu_without_engines_is_told_how_to_build_them(tensorrt, tiny_folder):
    assert told(check_tensorrt(looked_at(tiny_folder))) == [
        (OK, "tensorrt_rtx 1.7.1 builds for this GPU (SM89)", ""),
        (WARN, "there is no decoder_mixed_b8_60s yet", build(tiny_folder)),
    ]


def test_engines_that_are_there_and_stale_are_named(tensorrt, own, tiny_folder):
    own.publish(60, machine=msgspec.structs.replace(MACHINE, library_version="1.0"))
    own.publish(240)
    _, stale, there = told(check_tensorrt(looked_at(tiny_folder)))
    assert stale == (WARN, "decoder_mixed_b8_60s: built by version 1.0, here 1.7.1", build(tiny_folder))
    assert there == (OK, "decoder_mixed_b8_240s: windows of up to 240 s", "")


def test_one_that_was_cut_short_is_built_again(tensorrt, own, tiny_folder):
    own.publish(60)
    own.file().write_bytes(b"a")
    _, (status, detail, advice) = told(check_tensorrt(looked_at(tiny_folder)))
    assert status is WARN
    assert detail == f"{own.file()} is not what was built: it has 1 bytes, and 9 were built"
    assert advice == f"{build(tiny_folder)} --force-rebuild"


def test_a_gpu_that_this_tensorrt_does_not_build_for_is_told(tensorrt, tiny_folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    first = check_tensorrt(looked_at(tiny_folder))[0]
    assert first.status is WARN
    assert first.detail == "tensorrt_rtx 1.7.1 builds for SM89, SM120, and this GPU is SM90"


def test_the_choice_is_told_and_nothing_is_measured_for_that(tensorrt, own, tiny_folder, times):
    own.publish(60)
    (found,) = check_backend(looked_at(tiny_folder), measures=False)
    assert found.detail.startswith("auto measures tensorrt and eager when the engine starts next, or now: demon doctor")
    assert load(looked_at(tiny_folder)).choice.backend == "eager"
    assert not folder().exists()
    chosen = load_chosen(str(tiny_folder), device="cuda", offers_loras=False).choice
    (found,) = check_backend(looked_at(tiny_folder), measures=False)
    assert found.detail == f"auto takes {chosen.reason}"
    assert chosen.backend == load(looked_at(tiny_folder)).choice.backend == "tensorrt"


def test_everything_is_measured_when_asked_for(own, tiny_folder, times):
    def doctor(*options):
        done = demon("doctor", "--model", tiny_folder, "--endpoint", "tcp://127.0.0.1:1", "--json", *options)
        findings = json.loads(done.stdout)["findings"]
        return {finding["check"]: finding["detail"] for finding in findings}

    assert doctor()["backend"].startswith("auto takes eager: it runs wherever PyTorch does")
    said = doctor("--measure-backends")["backend"]
    assert said.startswith("auto takes eager: 30.0 ms a forward, measured here; compile takes 40.0 ms; not tensorrt: ")
    assert check_backend(looked_at(tiny_folder, "cpu"), measures=False)[0].detail == said
    assert demon("doctor", "--quick", "--measure-backends").exit_code == 2
