# SPDX-License-Identifier: Apache-2.0
"""A Session whose decoder is an engine that hears LoRAs, or one that does not. Only TensorRT and its GPU are simulated."""

from __future__ import annotations

import contextlib
import copy
import threading

import msgspec
import pytest
import torch
from refit_rig import PATIENCE_S, exported
from safetensors.torch import save_file
from trt_rig import A_MACHINE, MAX_FRAMES, engine_note
from trt_simulation import HostOrder, RefittableEngine, library, scratch

from engine_server.model.checkpoint import load_checkpoint
from engine_server.model.lora import linear_shapes
from engine_server.model.recipes import RECIPES
from engine_server.nodes.types import ModelHandle
from engine_server.session import Session
from engine_server.tracks.lora_catalogue import LoraCatalogue
from engine_server.types import Audio
from shared_protocol.errors import DemonError
from tests.bench.refit import measure
from trt_engines import open_engines
from trt_engines.engine_folder import ENGINE, METADATA
from trt_engines.export_decoder import refit_weights
from trt_engines.metadata import write_metadata
from trt_engines.profiles import Span, decoder_axes

AXES = decoder_axes(Span(1, 2, 4), Span(32, 40, MAX_FRAMES), Span(8, 16, 512))
TYPES = {name: torch.bool if name == "encoder_mask" else torch.float32 for name in AXES}
FRAMES = 37


class Machine:
    """What stands in the place of a GPU with TensorRT."""

    def __init__(self, transformer):
        self.order, self.library, self.engines = HostOrder(), library(), []
        self.scratch = scratch(self.order)
        self._module = exported(transformer, RECIPES["fp32"], {})
        self._names = refit_weights(transformer, RECIPES["fp32"])

    def load(self, *_):
        engine = RefittableEngine(
            copy.deepcopy(self._module), self._names, TYPES, ["velocity"], AXES, library=self.library, order=self.order
        )
        self.engines.append(engine)
        return engine


@pytest.fixture(scope="module")
def eager(tiny_folder):
    with Session(str(tiny_folder), dtype="float32") as session:
        yield session
        session.close()


@pytest.fixture
def machine(monkeypatch, eager):
    machine = Machine(eager.checkpoint.transformer)
    monkeypatch.setattr(open_engines, "load_tensorrt", lambda: machine.library)
    monkeypatch.setattr(open_engines, "machine_here", lambda *_: A_MACHINE)
    monkeypatch.setattr(open_engines, "load_engine", machine.load)
    monkeypatch.setattr(open_engines.OpenEngines, "_scratch", machine.scratch)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    return machine


@pytest.fixture
def opened(machine, tiny_folder, tmp_path, eager):
    """Opens a Session over an engine, which is closed at the end."""
    with contextlib.ExitStack() as stack:

        def open_session(*, is_refittable=True):
            (tmp_path / ENGINE).write_bytes(b"")
            name = "decoder_fp32_refit_b4_60s" if is_refittable else "decoder_fp32_b4_60s"
            note = engine_note(name, AXES, precision="fp32", checkpoint_hash=eager.checkpoint.content_hash)
            write_metadata(tmp_path / METADATA, msgspec.structs.replace(note, is_refittable=is_refittable))
            session = Session(
                str(tiny_folder), device="cpu", decoder_backend="tensorrt", trt_engines={"decoder": str(tmp_path)}
            )
            return stack.enter_context(session)

        yield open_session


@pytest.fixture
def session(opened):
    return opened()


@pytest.fixture
def lora_file(eager, tmp_path):
    def written(seed, *, more=0):
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            f"base_model.model.{name}.{factor}.weight": 0.3 * torch.randn(shape, generator=generator)
            for name, (outside, inside) in linear_shapes(eager.checkpoint.transformer).items()
            if ".self_attn." in name
            for factor, shape in (("lora_A", (2, inside + more)), ("lora_B", (outside, 2)))
        }
        path = tmp_path / f"lora{seed}.safetensors"
        save_file(tensors, path)
        return path

    return written


@pytest.fixture(scope="module")
def material(eager):
    generator = torch.Generator().manual_seed(1)
    audio = Audio(0.1 * torch.randn(2, FRAMES * 1920, generator=generator), 48000)
    return {"source": eager.prepare_source(audio), "conditioning": eager.encode_text(tags="strings"), "dcw": None}


@pytest.fixture
def one(material):
    def generated(session, **more):
        return session.generate(**material, **more).frames

    return generated


def refused(code, call, *arguments, **named):
    with pytest.raises(DemonError) as raised:
        call(*arguments, **named)
    assert raised.value.code == code
    return raised.value.message


def test_generations_have_the_strengths_that_were_set_whatever_a_refit_takes(session, eager, one, lora_file):
    path = lora_file(1)
    bare, eager_bare = one(session), one(eager)
    torch.testing.assert_close(bare, eager_bare, atol=1e-4, rtol=1e-4)
    lora = session.apply_lora(path, 0.5)
    eager.apply_lora(path, 0.5)
    half = one(session)
    torch.testing.assert_close(half, one(eager), atol=1e-4, rtol=1e-4)
    assert (half - bare).abs().max() > 1e-2
    session.set_lora_strength(lora, 0.505)
    assert not torch.equal(one(session), half), "no change is too small for it"
    session.set_lora_strength(lora, 0.5)
    assert torch.equal(one(session), half)
    session.remove_last_lora()
    assert torch.equal(one(session), bare)
    eager.remove_loras()


def test_a_live_stream_never_waits_and_one_that_queues_does(session, machine, material, lora_file):
    live = session.stream(**material, seed=3, steps=4)
    goes_on = threading.Event()
    for engine in machine.engines:
        engine.before_refit = lambda: goes_on.wait(PATIENCE_S)
    bare = live.generate().frames
    session.apply_lora(lora_file(1))
    assert torch.equal(live.generate().frames, bare), "the refit has not even begun"
    goes_on.set()
    exact = session.stream(**material, seed=3, steps=4, admission="queue")
    heard = exact.generate().frames
    assert not torch.equal(heard, bare)
    assert torch.equal(live.generate().frames, heard)


def test_a_lora_of_another_model_is_refused_with_its_reason(session, machine, one, lora_file):
    bare = one(session)
    said = refused("E_LORA_SHAPE", session.apply_lora, lora_file(5, more=8))
    assert "40" in said
    assert session.loras.entries() == []
    assert torch.equal(one(session), bare)
    assert all(engine.refits == [] for engine in machine.engines)


def test_no_request_has_strengths_of_its_own(session, one, lora_file):
    one(session, loras={})
    lora = session.apply_lora(lora_file(1), 0.5)
    for own in ({lora: 0.5}, {lora: 0.8}, {}):
        said = refused("E_BACKEND", one, session, loras=own)
        assert "one set of weights" in said
        assert "set_lora_strength" in said
    assert "one set of weights" in refused("E_BACKEND", ModelHandle(session).with_lora, lora, 0.5)
    assert ModelHandle(session).strengths() is None


def test_tracks_have_no_loras_on_an_engine(session):
    catalogue = LoraCatalogue(session.checkpoint)
    digest = "ab" * 32
    said = refused("E_LORA", catalogue.enable, digest)
    assert said.startswith(f"{digest}: a TensorRT engine has one set of weights")


def test_an_engine_without_the_flag_is_loaded_once_and_says_what_builds_one_that_hears_loras(
    opened, machine, lora_file
):
    session = opened(is_refittable=False)
    assert len(machine.engines) == 1
    said = refused("E_BACKEND", session.apply_lora, lora_file(1))
    assert "hears no LoRA" in said
    assert said.endswith("--decoder-only --duration 60 --precision fp32 --refit")
    assert session.loras.entries() == []


def test_bases_are_the_weights_of_the_file_whatever_type_the_rest_computes_in(machine, tiny_folder, tmp_path, opened):
    session = opened()
    assert len(machine.engines) == 2
    assert session.checkpoint.transformer.condition_embedder.weight.dtype == torch.float32
    half = load_checkpoint(str(tiny_folder), device="cpu", dtype="bfloat16", backend="tensorrt", engine=str(tmp_path))
    own = session.checkpoint.transformer.state_dict()
    assert all(torch.equal(part, own[name]) for name, part in half.transformer.state_dict().items())


def test_of_two_threads_that_set_a_strength_the_last_one_is_heard(session, lora_file, monkeypatch):
    lora = session.apply_lora(lora_file(1), 0.1)
    read = session.loras.mix
    later = threading.Thread(target=session.set_lora_strength, args=(lora, 0.9))

    def read_and_dawdle():
        mix = read()
        monkeypatch.setattr(session.loras, "mix", read)
        later.start()
        later.join(0.5)  # as far as it gets
        return mix

    monkeypatch.setattr(session.loras, "mix", read_and_dawdle)
    session.set_lora_strength(lora, 0.5)
    later.join(PATIENCE_S)
    session.checkpoint.decoder.settle(exact=True)
    assert session.checkpoint.decoder.heard.is_same(read())


def test_what_it_costs_can_be_measured(session, lora_file):
    lora = session.apply_lora(lora_file(1))
    figures = measure(session, lora, seconds=FRAMES / 25, ticks=3)
    assert set(figures) == {"tick", "longest", "tick_moving", "longest_moving", "heard", "heard_late"}
    assert figures["heard_late"] >= figures["heard"] > 0
    assert session.checkpoint.decoder.heard.is_near(session.loras.mix())


def test_a_refit_that_fails_is_told_by_the_generation_that_needs_it(session, machine, one, lora_file):
    bare = one(session)
    for engine in machine.engines:
        engine.writes_left = 2
    session.apply_lora(lora_file(1))
    refused("E_ENGINE_REFIT", one, session)
    session.remove_loras()
    assert torch.equal(one(session), bare)
