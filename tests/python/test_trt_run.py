# SPDX-License-Identifier: Apache-2.0
"""An engine behind the ring's protocol, over a simulated context: buffers, batches, filling and memory, without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trt_rig import MAX_FRAMES, decoder, eager, engine_note, inputs
from trt_simulation import Engine, HostOrder, library, scratch

from engine_server.model.recipes import RECIPES
from shared_protocol.errors import DemonError
from trt_engines.decoder_module import ExportableDecoder
from trt_engines.engine_decoder import EngineDecoder
from trt_engines.engine_file import EngineFile, Wanted
from trt_engines.engine_program import MOST_FORMS, EngineProgram
from trt_engines.forward_plan import DecoderSizes
from trt_engines.profiles import Span, decoder_axes

AXES = decoder_axes(Span(1, 2, 4), Span(32, 40, MAX_FRAMES), Span(8, 16, 64))
TYPES = {name: torch.bool if name == "encoder_mask" else torch.float32 for name in AXES}


class Rig:
    """A decoder over an engine that computes the exported module in torch."""

    def __init__(self, **engine):
        self.model = decoder()
        module = ExportableDecoder(self.model, recipe=RECIPES["fp32"], max_frames=MAX_FRAMES).eval()
        self.order, self.library = HostOrder(), library()

        @torch.no_grad()
        def compute(given):
            return {"velocity": module(**given)}

        self.engine = Engine(compute, TYPES, ["velocity"], AXES, library=self.library, order=self.order, **engine)
        self.scratch = scratch(self.order)
        self.program = EngineProgram(self.engine, self.library, self.scratch, name="decoder")
        file = EngineFile(
            Path("engine.plan"), Wanted("decoder", "a", "5f" * 32), engine_note("d_60s", AXES, precision="fp32")
        )
        self.decoder = EngineDecoder(self.program, DecoderSizes.of(file))

    def __call__(self, case, adapters=None):
        condition = self.decoder.encode(case["encoder_hidden_states"], case["encoder_mask"], adapters)
        return self.decoder(case["hidden_states"], case["timestep"], case["context_latents"], condition, adapters)

    def case(self, rows, frames, tokens, **more):
        return inputs(self.model, rows, frames, tokens, **more)


@pytest.fixture
def rig():
    return Rig()


@pytest.mark.parametrize(("rows", "frames", "tokens"), [(1, 40, 16), (4, 41, 5), (9, 33, 64)])
def test_velocities_are_eagers_for_any_rows_odd_frames_and_short_conditions(rig, rows, frames, tokens):
    case = rig.case(rows, frames, tokens)
    torch.testing.assert_close(rig(case), eager(rig.model)(**case), atol=2e-5, rtol=2e-5)
    assert len({tuple(run.items()) for run in rig.engine.runs}) == 1, "every row meets one form"
    assert len(rig.engine.runs) == -(-rows // 4)
    assert rig.order.entries == len(rig.engine.runs) + 1, "each, and the making of the context"


def test_what_a_longer_call_left_in_the_buffers_is_not_heard(rig):
    short = rig.case(3, 41, 9, seed=2)
    alone = Rig()(short)
    rig(rig.case(3, 42, 16))  # another length, the same form of frames
    rig(rig.case(3, 42, 12))
    assert torch.equal(rig(short), alone)


def test_a_result_stays_when_the_next_one_is_made(rig):
    first = rig(rig.case(2, 40, 16))
    kept = first.clone()
    rig(rig.case(2, 40, 16, seed=5))
    assert torch.equal(first, kept)


def test_a_form_is_bound_once_and_old_ones_go(rig):
    def address(frames):
        rig(rig.case(1, frames, 16))
        return next(reversed(rig.program._bound.values())).inputs["hidden_states"].data_ptr()

    assert address(40) == address(40)
    for frames in range(42, 42 + 2 * MOST_FORMS, 2):
        address(frames)
    assert len(rig.program._bound) == MOST_FORMS


def test_a_window_below_the_least_is_filled_and_said_so_once(rig, caplog):
    case = rig.case(2, 20, 16)
    assert rig(case).shape == (2, 20, 64)
    rig(case)
    told = [record for record in caplog.records if "shorter than the engine's 32" in record.getMessage()]
    assert len(told) == 1


def test_where_memory_has_no_room_fewer_rows_run_at_once_and_the_log_says_so(caplog):
    rig = Rig(rows_in_memory=1)
    case = rig.case(4, 40, 16)
    torch.testing.assert_close(rig(case), eager(rig.model)(**case), atol=2e-5, rtol=2e-5)
    assert [run["timestep"] for run in rig.engine.runs] == [(1,)] * 4
    assert "memory has no room for 4 rows" in caplog.text
    assert "from now on 1 run at once" in caplog.text


@pytest.mark.parametrize("engine", [{"rows_in_memory": 0}, {"contexts": 0}], ids=["torch", "TensorRT"])
def test_without_room_for_one_row_it_is_said_what_to_do(engine):
    rig = Rig(**engine)
    with pytest.raises(DemonError, match=r"no room for 1 row.*nvidia-smi.*eager") as raised:
        rig(rig.case(4, 40, 16))
    assert raised.value.code == "E_MEMORY"
    assert rig.scratch.block.nbytes == 0


def test_a_form_whose_buffers_have_no_room_leaves_no_scratch_behind(rig, monkeypatch):
    rig(rig.case(1, 40, 16))
    case, zeros = rig.case(4, 40, 16), torch.zeros
    expected = eager(rig.model)(**case)

    def full(*size, device=None, **more):
        if device is not None and size[0][0] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return zeros(*size, device=device, **more)

    monkeypatch.setattr(torch, "zeros", full)
    torch.testing.assert_close(rig(case), expected, atol=2e-5, rtol=2e-5)
    assert rig.scratch.block.nbytes == 1000, "of the form of one row, which there was before"


def test_engines_share_one_scratch_as_large_as_the_greatest_need(rig):
    rig(rig.case(1, 40, 16))
    before = rig.scratch.block.nbytes
    other = EngineProgram(rig.engine, rig.library, rig.scratch, name="other")
    shapes = {name: tuple(part.shape) for name, part in rig.case(4, 40, 16).items()}
    other.bind(shapes).run()
    assert before == 1000
    assert rig.scratch.block.nbytes == 4000
    rig(rig.case(1, 40, 16))  # whose context has to be told where the scratch is now
    assert rig.scratch.block.nbytes == 4000


def test_a_lora_is_refused_with_what_hears_it(rig):
    strengths = torch.ones(2, 1)
    with pytest.raises(DemonError, match=r"E_BACKEND: .*use the eager or the compile backend"):
        rig(rig.case(2, 40, 16), strengths)
    rig(rig.case(2, 40, 16), strengths[:, :0])  # none applied


def test_an_engine_of_other_types_is_refused(rig):
    rig.engine.types["velocity"] = torch.float16
    with pytest.raises(DemonError, match="E_ENGINE_FILE: decoder: velocity is half"):
        EngineProgram(rig.engine, rig.library, rig.scratch, name="decoder")


def test_shapes_that_the_engine_does_not_take_are_told(rig):
    shapes = {name: tuple(part.shape) for name, part in rig.case(5, 40, 16).items()}
    with pytest.raises(DemonError, match=r"does not take inputs of .*5, 40, 64") as raised:
        rig.program.bind(shapes)
    assert raised.value.code == "E_ENGINE_RUN"
