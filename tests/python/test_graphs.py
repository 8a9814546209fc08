# SPDX-License-Identifier: Apache-2.0
"""A forward that is recorded once per form: what it reads anew, what it reads where it lies, and what it gives away.

A graph replays over the memory that it was recorded with. Without a GPU, a recording here is the list of torch's operations with
the memory that each of them read, which are run again, into the same result: what the buffers are not told, and what lies
elsewhere since, it does not hear.
"""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from test_backends import draw, run, tiny_transformer
from test_dit import random_factors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from engine_server.model.adapter_stack import COLUMNS_STEP
from engine_server.model.backends import make_decoder
from engine_server.model.dit import DitForward, velocity
from engine_server.model.forms import Form
from engine_server.model.graphs import RUNS_BEFORE_RECORDING, CudaRecorder, GraphedVelocity
from engine_server.model.lora import AdapterBank
from engine_server.model.static_decoder import StaticDecoder
from shared_protocol.errors import DemonError

EXACT, ADAPTED = Form(4, 40, 13), Form(4, 40, 13, COLUMNS_STEP)
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


class Uncompiled:
    """`velocity` as it is."""

    programs = 0

    def __call__(self, *arguments):
        return velocity(*arguments)


class Operations(TorchDispatchMode):
    """What torch did while this was on."""

    def __init__(self):
        super().__init__()
        self.done = []
        self.read = {}
        """Aliases of the tensors that were there before, by their ids: the memory, whatever becomes of the tensor."""
        self._made = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor) and id(tensor) not in self._made:
                self.read.setdefault(id(tensor), (tensor.detach(), tensor))
        out = func(*args, **(kwargs or {}))
        self._made.update((id(tensor), tensor) for tensor in tree_leaves(out))
        self.done.append((func, args, kwargs or {}, out))
        return out

    def again(self, wanted):
        """Do it again, and return what came of the tensor `wanted` this time."""
        values = {name: alias for name, (alias, _) in self.read.items()}

        def now(tree):
            return tree_map_only(torch.Tensor, lambda tensor: values[id(tensor)], tree)

        for func, args, kwargs, out in self.done:
            made = func(*now(args), **now(kwargs))
            values.update(zip(map(id, tree_leaves(out)), tree_leaves(made), strict=True))
        return values[id(wanted)]


class Tape:
    """A recorder for the CPU; see the module."""

    def __init__(self):
        self.recorded = 0
        self.alive = weakref.WeakSet()
        """The recordings that somebody may still replay."""

    def __call__(self, forward):
        self.recorded += 1
        with Operations() as operations:
            result = forward()
        with torch.inference_mode(False):
            lasting = torch.empty_like(result)

        def replay():
            return lasting.copy_(operations.again(result))

        replay.reads = {alias.data_ptr() for alias, _ in operations.read.values()}
        self.alive.add(replay)
        return replay


def build(model, bank=None):
    tape = Tape()
    return StaticDecoder(model, bank, run=GraphedVelocity(Uncompiled(), tape)), tape


@torch.no_grad()
def test_replays_hear_every_input_and_are_recorded_once_per_form():
    model = tiny_transformer()
    decoder, tape = build(model)
    decoder.warm_up([EXACT])
    for rows, frames, seed in ((4, 40, 1), (4, 40, 2), (2, 39, 3), (4, 45, 4), (4, 47, 5), (4, 40, 1)):
        inputs = draw(model, rows, frames, seed=seed)
        torch.testing.assert_close(run(decoder, inputs), run(DitForward(model), inputs), **TOLERANCE)
    assert tape.recorded == 2


@torch.no_grad()
def test_a_condition_that_is_written_to_in_place_is_heard():
    model = tiny_transformer()
    decoder, _ = build(model)
    x, t, context, states = draw(model, 4, 40)
    mask = torch.ones(states.shape[:2], dtype=torch.bool)
    condition = decoder.encode(states, mask)
    before = decoder(x, t, context, condition)
    assert torch.equal(decoder(x, t, context, condition), before)
    for part, other in zip(condition, decoder.encode(states.flip(0), mask), strict=True):
        part.copy_(other)
    torch.testing.assert_close(
        decoder(x, t, context, condition), run(DitForward(model), (x, t, context, states.flip(0))), **TOLERANCE
    )


@torch.no_grad()
def test_a_result_is_the_callers_and_outlives_the_next_replay():
    model = tiny_transformer()
    decoder, _ = build(model)
    first = run(decoder, draw(model, 4, 40, seed=1))
    kept = first.clone()
    run(decoder, draw(model, 4, 40, seed=2))
    assert torch.equal(first, kept)


@torch.no_grad()
def test_adapters_come_and_go_under_a_recording():
    model = tiny_transformer()
    bank = AdapterBank()
    decoder, tape = build(model, bank)
    decoder.warm_up([EXACT, ADAPTED])
    inputs, eager = draw(model, 4, 40), DitForward(model, bank)
    for seed in (1, 2):
        place = bank.add(random_factors(model, seed=seed))
        strengths = torch.tensor([[0.0], [1.0], [0.3], [0.0]])
        torch.testing.assert_close(run(decoder, inputs, strengths), run(eager, inputs, strengths), **TOLERANCE)
        bank.remove(place)
        torch.testing.assert_close(run(decoder, inputs, strengths), run(eager, inputs), **TOLERANCE)
    assert tape.recorded == 2


@torch.no_grad()
def test_weights_may_change_in_place_and_where_they_move_the_forward_is_recorded_anew():
    model, other = tiny_transformer(), tiny_transformer()
    for weight in other.parameters():
        weight.mul_(0.9)
    decoder, tape = build(model)
    inputs = draw(model, 4, 40)
    run(decoder, inputs)
    expected = run(DitForward(other), inputs)
    model.load_state_dict(other.state_dict())
    decoder.weights_changed()
    torch.testing.assert_close(run(decoder, inputs), expected, **TOLERANCE)
    assert tape.recorded == 1
    linear = model.get_submodule("layers.0.mlp.up_proj")
    linear.weight.data = 2 * linear.weight.data
    torch.testing.assert_close(run(decoder, inputs), expected, **TOLERANCE)
    decoder.weights_changed()
    moved = run(decoder, inputs)
    torch.testing.assert_close(moved, run(DitForward(model), inputs), **TOLERANCE)
    assert not torch.allclose(moved, expected, **TOLERANCE)
    assert tape.recorded == 2
    assert len(tape.alive) == 1


@torch.no_grad()
def test_weights_that_are_buffers_and_move_are_recorded_anew():
    """As those of quantised Linears are."""
    model = tiny_transformer()
    decoder, tape = build(model)
    model.register_buffer("codes", torch.zeros(3))
    inputs = draw(model, 4, 40)
    for _ in range(2):
        run(decoder, inputs)
        model.codes = torch.zeros(3)
        decoder.weights_changed()
    assert tape.recorded == 2


@torch.no_grad()
def test_adapters_that_need_more_columns_leave_no_recording_of_the_fewer_behind():
    model = tiny_transformer()
    bank = AdapterBank()
    decoder, tape = build(model, bank)
    decoder.warm_up([EXACT, ADAPTED])
    inputs, eager = draw(model, 4, 40), DitForward(model, bank)
    name, wide = "layers.0.mlp.up_proj", COLUMNS_STEP + 1
    bank.add({name: (torch.randn(wide, 32) / 32, torch.randn(48, wide) / 8)})
    strengths = torch.tensor([[0.0], [1.0], [0.3], [0.0]])
    for given in (strengths, None):
        torch.testing.assert_close(run(decoder, inputs, given), run(eager, inputs, given), **TOLERANCE)
    assert tape.recorded == 3
    assert len(tape.alive) == 2


@torch.no_grad()
def test_forms_share_the_buffers_of_a_condition_and_keep_no_condition_alive():
    model = tiny_transformer()
    decoder, tape = build(model)
    decoder.warm_up([EXACT, Form(4, 20, 13)])
    first, second = (replay.reads for replay in tape.alive)
    weights = {weight.data_ptr() for weight in model.parameters()}
    assert len((first & second) - weights) >= 6  # t, the second time's two, bias, keys, values
    x, t, context, states = draw(model, 4, 40)
    condition = decoder.encode(states, torch.ones(states.shape[:2], dtype=torch.bool))
    decoder(x, t, context, condition)
    kept = [weakref.ref(part) for part in condition]
    del condition
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3


def test_a_warm_up_in_inference_mode_serves_calls_outside_of_it():
    model = tiny_transformer()
    decoder, tape = build(model)
    with torch.inference_mode():
        decoder.warm_up([EXACT])
    inputs = draw(model, 4, 40)
    with torch.no_grad():
        torch.testing.assert_close(run(decoder, inputs), run(DitForward(model), inputs), **TOLERANCE)
    assert tape.recorded == 1


def test_a_recording_that_fails_is_not_remembered():
    model, tape = tiny_transformer(), Tape()
    fails = [True]

    def record(forward):
        if fails.pop():
            raise DemonError("E_BACKEND", "no graph here")
        return tape(forward)

    fails.insert(0, False)
    decoder = StaticDecoder(model, run=GraphedVelocity(Uncompiled(), record))
    with pytest.raises(DemonError, match="no graph here"):
        decoder.warm_up([EXACT])
    inputs = draw(model, 4, 40)
    with torch.no_grad():
        torch.testing.assert_close(run(decoder, inputs), run(DitForward(model), inputs), **TOLERANCE)


@NEEDS_GPU
@torch.no_grad()
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-3), (torch.bfloat16, 0.03)])
def test_on_a_gpu_compiled_graphs_agree_with_eager_on_the_cpu(dtype, error):
    model = tiny_transformer()
    bank = AdapterBank()
    bank.add(random_factors(model))
    cases = []
    for rows, frames, seed in ((4, 40, 1), (4, 40, 2), (2, 39, 3), (4, 45, 4), (4, 645, 5), (4, 40, 1)):
        inputs, strengths = draw(model, rows, frames, seed=seed), torch.linspace(0, 1, rows)[:, None]
        cases.append((inputs, strengths, run(DitForward(model, bank), inputs, strengths)))
    bank.to("cuda", dtype)
    decoder = make_decoder(model.to("cuda", dtype), backend="compile", adapters=bank)
    decoder.warm_up([EXACT, ADAPTED])
    for inputs, strengths, expected in cases:
        x, t, context, states = (part.cuda() for part in inputs)
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device="cuda")
        got = decoder(x, t, context, decoder.encode(states, mask, strengths.cuda()), strengths.cuda()).cpu()
        assert float((got - expected).norm() / expected.norm()) < error


@NEEDS_GPU
@torch.no_grad()
def test_on_a_gpu_a_recording_that_fails_leaves_the_stream_as_it_was_and_the_next_one_works():
    record, x, calls = CudaRecorder(torch.device("cuda")), torch.ones(8, device="cuda"), []

    def reads_while_recorded():
        calls.append(None)
        return x * x.sum().item() if len(calls) > RUNS_BEFORE_RECORDING else x * 2

    stream = torch.cuda.current_stream()
    with pytest.raises(DemonError, match="could not be recorded") as caught:
        record(reads_while_recorded)
    assert caught.value.code == "E_BACKEND"
    assert torch.cuda.current_stream() == stream
    for factor in (2, 3):  # the second after all that the first one shared has gone
        replay = record(lambda factor=factor: x * factor)
        x.fill_(5)
        assert replay().tolist() == [5 * factor] * 8
        del replay


@NEEDS_GPU
@torch.no_grad()
def test_on_a_gpu_recordings_share_their_memory():
    record, x = CudaRecorder(torch.device("cuda")), torch.ones(2**24, device="cuda")
    kept, taken = [], []
    for _ in range(4):
        kept.append(record(lambda: (x.exp() * x.sin() + x.cos()).sum()))
        torch.cuda.empty_cache()
        taken.append(torch.cuda.memory_reserved())
    assert taken[1:] == taken[:1] * 3
