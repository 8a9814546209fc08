# SPDX-License-Identifier: Apache-2.0
"""`--backend auto`: what is present is measured once, the choice holds, and where it does not start the next one plays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from device_rig import simulated_gpu
from own_engine_rig import OwnEngines, SimulatedTensorRt
from test_cli import demon, tone

from engine_server.model import auto_backend, backend_probe, backend_record
from engine_server.model.auto_backend import load_chosen, measure_anew, ranking, reason, settle, survey
from engine_server.model.backend_probe import probe
from engine_server.model.backend_record import Measured, Record, path_of, read_record, write_record
from engine_server.model.checkpoint_files import find_checkpoint
from engine_server.model.placement import placement
from engine_server.serve.warm_up import warm_up
from engine_server.tracks.engine import Engine
from shared_protocol.errors import DemonError

ROOT = Path(__file__).parents[2]
FAST, SLOW = 3.0, 30.0
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB."


@pytest.fixture
def home(tmp_path, monkeypatch):
    for variable in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path


@pytest.fixture
def own(home, tiny_folder):
    return OwnEngines(tiny_folder)


@pytest.fixture
def tensorrt(own, monkeypatch, tiny_folder):
    """A simulated GPU with TensorRT, and an engine for it."""
    own.publish()
    with simulated_gpu(monkeypatch):
        yield SimulatedTensorRt(monkeypatch, tiny_folder)


@pytest.fixture
def times(monkeypatch):
    """Milliseconds by backend: everything is really tried, and only the clock is ours. And what was tried."""
    taken = {"tensorrt": FAST, "eager": SLOW, "tried": []}

    def timed(backend, *arguments, **named):
        taken["tried"].append(backend)
        found = probe(backend, *arguments, **named)
        return found if found.ms is None else msgspec.structs.replace(found, ms=taken[backend])

    monkeypatch.setattr(auto_backend, "probe", timed)
    return taken


def load(folder, **options):
    return load_chosen(str(folder), **({"device": "cuda", "offers_loras": False} | options))


def ground_of(folder, device="cuda", *, offers_loras=False):
    return survey(find_checkpoint(str(folder)), placement(device, None), offers_loras=offers_loras)


def records(home):
    return sorted((home / "XDG_CACHE_HOME").rglob("*.json"))


def test_on_a_cpu_eager_plays_at_once_and_it_is_said_how_to_have_more(home, tiny_folder, times):
    choice = load(tiny_folder, device="cpu").choice
    assert choice.backend == "eager"
    assert choice.reason == (
        "eager: it runs wherever PyTorch does; compile was not measured, which takes a minute or more: demon doctor "
        f"--measure-backends --model {tiny_folder} --device cpu; not tensorrt: it computes on a GPU"
    )
    assert times["tried"] == []
    assert records(home) == []


def test_without_engines_a_gpu_computes_eager_and_it_is_said_what_builds_them(own, monkeypatch, tiny_folder, times):
    with simulated_gpu(monkeypatch):
        SimulatedTensorRt(monkeypatch, tiny_folder)
        choice = load(tiny_folder).choice
    assert choice.backend == "eager"
    assert "not tensorrt: E_ENGINE_NOT_BUILT: there is no decoder_mixed_b8_60s yet; run: demon engines" in choice.reason
    assert f"build --checkpoint {tiny_folder} --decoder-only --duration 60 --precision mixed" in choice.reason
    assert times["tried"] == []


@pytest.mark.parametrize(("eager", "chosen"), [(SLOW, "tensorrt"), (FAST / 2, "eager"), (1.05 * FAST, "eager")])
def test_the_fastest_is_taken_and_that_is_said(tensorrt, tiny_folder, times, eager, chosen):
    """Another one has to be faster than eager by a tenth."""
    times["eager"] = eager
    checkpoint = load(tiny_folder)
    assert checkpoint.choice.backend == chosen
    assert checkpoint.backend.startswith(f"{chosen} cuda")
    first, *others = checkpoint.choice.reason.split("; ")
    assert first == f"{chosen}: {FAST if chosen == 'tensorrt' else eager:.1f} ms a forward, measured here"
    assert any(other.startswith("compile was not measured") for other in others)


def test_a_choice_holds_from_start_to_start_and_nothing_is_measured_again(tensorrt, home, tiny_folder, times):
    first = load(tiny_folder).choice
    (record,) = records(home)
    kept = record.read_bytes()
    times["tensorrt"], times["eager"] = SLOW, FAST  # as of a machine that is busy today
    assert load(tiny_folder).choice == first
    assert times["tried"] == ["tensorrt", "eager"]
    assert record.read_bytes() == kept


def test_what_was_measured_of_something_else_does_not_count(tensorrt, home, tiny_folder, times):
    ground = ground_of(tiny_folder)
    others = [
        msgspec.structs.replace(ground.key, **{field: type(getattr(ground.key, field))(9)})
        for field in ground.key.__struct_fields__
    ]
    measured = [Measured("tensorrt", SLOW), Measured("eager", FAST)]
    path_of(ground.key).parent.mkdir(parents=True)
    for other in others:
        write_record(Record(other, ground.engine, measured, "2026-01-01T00:00:00Z"))
    assert load(tiny_folder).choice.backend == "tensorrt"
    assert len(records(home)) == len(others) + 1
    record = read_record(ground.key)
    path_of(ground.key).write_bytes(path_of(others[0]).read_bytes())  # one that was put in its place
    assert read_record(ground.key) is None
    assert record is not None


def test_another_engine_is_measured_and_compiling_too_if_it_was_before(tensorrt, own, tiny_folder, times, monkeypatch):
    load(tiny_folder)
    own.publish(content=b"built anew")
    load(tiny_folder)
    assert times["tried"] == ["tensorrt", "eager"] * 2
    ground = ground_of(tiny_folder)
    record = read_record(ground.key)
    write_record(
        msgspec.structs.replace(record, engine="00" * 32, measured=[*record.measured, Measured("compile", 9.0)])
    )
    monkeypatch.setattr(auto_backend, "_torchs_decoder", lambda *_: (_ for _ in ()).throw(ValueError("not here")))
    assert [one.backend for one in settle(ground).measured] == ["tensorrt", "eager", "compile"]


def test_one_that_finds_no_memory_is_left_out_and_stays_out(tensorrt, tiny_folder, times, caplog):
    tensorrt.rows_in_memory = 0
    choice = load(tiny_folder).choice
    assert choice.backend == "eager"
    assert "not tensorrt: E_MEMORY: the GPU's memory has no room for 1 row(s) of the engine" in choice.reason
    assert f"(to try again: demon doctor --measure-backends --model {tiny_folder} --device cuda:0)" in choice.reason
    assert "tensorrt is not taken: E_MEMORY" in caplog.text
    tensorrt.rows_in_memory = 10**6
    assert load(tiny_folder).choice == choice


def test_a_smaller_batch_is_taken_before_the_next_backend(tensorrt, tiny_folder, times, caplog):
    tensorrt.rows_in_memory = 2
    assert load(tiny_folder).choice.backend == "tensorrt"
    assert "memory has no room for 4 rows at once" in caplog.text


def test_eager_without_memory_leaves_the_engine(tensorrt, tiny_folder, times, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    monkeypatch.setattr(auto_backend, "_torchs_decoder", full)
    checkpoint = load(tiny_folder)
    assert checkpoint.choice.backend == "tensorrt"
    assert "not eager: out of memory (CUDA out of memory)" in checkpoint.choice.reason


def test_where_the_choice_does_not_start_the_next_one_plays_loudly_and_the_choice_stays(
    tensorrt, home, tiny_folder, times, caplog
):
    assert load(tiny_folder).choice.backend == "tensorrt"
    (record,) = records(home)
    kept = record.read_bytes()
    tensorrt.rows_in_memory = 0
    choice = load(tiny_folder).choice
    assert choice.backend == "eager"
    assert choice.reason.startswith("tensorrt does not start now (E_MEMORY: ")
    assert "tensorrt does not start now, and the next backend plays, with bits of its own: E_MEMORY" in caplog.text
    assert record.read_bytes() == kept
    tensorrt.rows_in_memory = 10**6
    assert load(tiny_folder).choice.backend == "tensorrt"


def test_by_name_it_starts_or_fails(tensorrt, tiny_folder):
    tensorrt.rows_in_memory = 0
    with pytest.raises(DemonError, match="E_MEMORY"):
        warm_up(Engine(load(tiny_folder, backend="tensorrt")))


@pytest.mark.parametrize("content", [b"an engi", b"an eNgine"], ids=["cut", "changed"])
def test_an_engine_that_was_damaged_since_is_not_run(tensorrt, own, tiny_folder, times, content):
    load(tiny_folder)
    own.file().write_bytes(content)
    choice = load(tiny_folder).choice
    assert choice.backend == "eager"
    assert "E_ENGINE_FILE" in choice.reason
    assert "--force-rebuild" in choice.reason
    assert times["tried"] == ["tensorrt", "eager"]


def test_what_tensorrt_itself_refuses_is_no_end(own, monkeypatch, tiny_folder, times, caplog):
    """By the real library, which has no driver here, and is given bytes that are no engine."""
    from trt_engines.tensorrt_library import load_tensorrt

    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install --editable '.[trt]'")
    from own_engine_rig import MACHINE

    library = load_tensorrt()
    machine = msgspec.structs.replace(MACHINE, library=library.name, library_version=library.version)
    own.publish(machine=machine)
    with simulated_gpu(monkeypatch):
        SimulatedTensorRt.simulate_current_device(monkeypatch)
        checkpoint = load(tiny_folder)
        assert checkpoint.choice.backend == "eager"
    assert "not tensorrt: E_ENGINE_LOAD" in checkpoint.choice.reason
    assert "tensorrt is not taken: E_ENGINE_LOAD" in caplog.text


def test_where_loras_are_offered_nothing_deaf_is_taken(tensorrt, home, tiny_folder, times):
    choice = load(tiny_folder, offers_loras=True).choice
    assert choice.backend == "eager"
    assert "not tensorrt: it hears no LoRA, and there are some to choose from" in choice.reason
    assert times["tried"] == []
    assert load(tiny_folder, offers_loras=False).choice.backend == "tensorrt"
    assert load(tiny_folder, offers_loras=True).choice.backend == "eager"


def test_a_decoder_whose_rows_are_no_strangers_is_not_taken(tiny_folder):
    class Leaky:
        def encode(self, states, mask, adapters=None):
            return (states,)

        def __call__(self, x, t, context, condition, adapters=None):
            return x + x.mean()

    sizes = replace(ground_of(tiny_folder, "cpu").sizes, frames=8, tokens=8)
    found = probe("leaky", Leaky, sizes, torch.device("cpu"))
    assert found.ms is None
    assert "its neighbours" in found.trouble


def test_velocities_that_are_not_finite_are_not_taken(tiny_folder):
    class Broken:
        def encode(self, states, mask, adapters=None):
            return (states,)

        def __call__(self, x, t, context, condition, adapters=None):
            return x / 0

    found = probe("broken", Broken, ground_of(tiny_folder, "cpu").sizes, torch.device("cpu"))
    assert found == Measured("broken", None, "its velocities are not finite")


@pytest.mark.parametrize("content", [b"", b'{"key": 1}'])
def test_a_damaged_record_is_told_of_and_made_anew(tensorrt, home, tiny_folder, times, caplog, content):
    expected = load(tiny_folder).choice
    (record,) = records(home)
    record.write_bytes(content)
    assert load(tiny_folder).choice == expected
    assert f"{record} cannot be read" in caplog.text
    assert times["tried"] == ["tensorrt", "eager"] * 2
    assert read_record(ground_of(tiny_folder).key).measured_at


def test_where_nothing_can_be_kept_nothing_is_measured(tensorrt, home, tiny_folder, times, caplog):
    (home / "XDG_CACHE_HOME").write_text("a file in the place of the folder")
    assert load(tiny_folder).choice.backend == "eager"
    assert "nothing that is measured can be kept" in caplog.text
    assert times["tried"] == []


PROGRAM = """
import logging, sys
from dataclasses import replace
from engine_server.model.auto_backend import settle, survey
from engine_server.model.checkpoint_files import find_checkpoint
from engine_server.model.placement import placement

logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
ground = survey(find_checkpoint(sys.argv[1]), placement("cpu", None), offers_loras=False)
print("ready", flush=True)
sys.stdin.readline()
record = settle(replace(ground, engine="5f" * 32))  # one that nobody has measured
print(record.measured_at, record.measured[0].ms)
"""


def test_two_processes_that_start_together_measure_once_and_agree(home, tiny_folder):
    environment = {**os.environ, "DEMON_DEVICE": "cpu"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tiny_folder)], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    for one in both:
        assert one.stdout.readline() == "ready\n"
    for one in both:
        one.stdin.write("\n")
        one.stdin.flush()
    said = [one.communicate(timeout=600) for one in both]
    assert all(one.returncode == 0 for one in both), said
    assert said[0][0] == said[1][0]
    assert sum("measuring backends, this once" in error for _, error in said) == 1
    assert len(records(home)) == 1


def test_int8_linears_need_no_measuring(own, tiny_folder, times):
    checkpoint = load(tiny_folder, quantization="int8", device="cpu")
    assert (
        checkpoint.choice.reason
        == "eager: with int8 Linears auto measures nothing; name another backend if it is to be one"
    )
    assert times["tried"] == []


def test_what_is_asked_for_is_measured_compiling_too_and_auto_goes_by_it(home, tiny_folder, times, monkeypatch):
    """On the CPU, really compiled: its rows may depend on their place, and then it is not taken."""
    times["compile"] = FAST
    ground = ground_of(tiny_folder, "cpu")
    record = measure_anew(ground)
    assert times["tried"] == ["eager", "compile"]
    assert read_record(ground.key) == record
    compiled = record.of("compile")
    assert (compiled.ms == FAST) != ("bits depend on" in compiled.trouble)
    expected = "eager" if compiled.ms is None else "compile"
    assert ranking(ground, record)[0] == expected
    assert load(tiny_folder, device="cpu").choice.reason == reason(ground, record, expected)


def test_where_a_measurement_that_was_asked_for_cannot_be_kept_that_is_an_error(home, tiny_folder):
    (home / "XDG_CACHE_HOME").write_text("")
    with pytest.raises(DemonError, match="E_OUTPUT") as caught:
        measure_anew(ground_of(tiny_folder, "cpu"))
    assert "XDG_CACHE_HOME" in caught.value.message


def test_the_command_renders_by_the_choice_and_the_receipt_names_it(tensorrt, tiny_folder, times, tmp_path):
    source = tone(tmp_path / "in.wav", seconds=0.5)
    receipts = []
    for name in ("a", "b"):
        out = tmp_path / f"{name}.wav"
        done = demon("render", source, "--out", out, "--model", tiny_folder, "--device", "cuda")
        assert done.exit_code == 0, done.stderr
        receipts.append(json.loads(out.with_suffix(".receipt.json").read_text()))
    assert receipts[0]["backend"].startswith("tensorrt cuda mixed, NVIDIA")
    assert receipts[0] == receipts[1]
    assert times["tried"] == ["tensorrt", "eager"]


def test_the_lock_is_that_of_the_folder(home):
    with backend_record.measuring():
        assert (home / "XDG_CACHE_HOME" / "demon-bridge" / "backends" / backend_record.LOCK).is_file()
    assert backend_probe.in_words(torch.OutOfMemoryError(OUT_OF_MEMORY)) == "out of memory (CUDA out of memory)"
    assert backend_probe.in_words(KeyError("x")) == "KeyError: 'x'"
