# SPDX-License-Identifier: Apache-2.0
"""LoRAs written into a decoder's engine while it plays: over simulated engines, one refitted while the other one runs."""

from __future__ import annotations

import threading

import pytest
import torch
from refit_rig import CPU, PATIENCE_S, Rig, factors, merged, mixed
from trt_rig import built_decoder, decoder, eager, inputs

from engine_server.model.lora import AdapterBank
from shared_protocol.errors import DemonError
from trt_engines.machine_here import capability
from trt_engines.open_engines import OpenEngines

ATTENTION = "layers.0.self_attn.to_"
NO_GPU = "needs a CUDA GPU that TensorRT-RTX builds for, such as an RTX 4090 or 5090"


@pytest.fixture
def rig():
    return with_loras(Rig())


def with_loras(rig):
    rig.bank.add(factors(rig.model, seed=1))
    rig.bank.add(factors(rig.model, seed=2, names=lambda name: name.startswith(ATTENTION)))
    return rig


class Held:
    """Refits of a rig's engines that wait until they are let go on."""

    def __init__(self, rig):
        self.began, self._goes_on = threading.Semaphore(0), threading.Event()
        for engine in rig.engines:
            engine.before_refit = self._wait

    def _wait(self):
        self.began.release()
        assert self._goes_on.wait(PATIENCE_S)

    def wait_until_one_begins(self):
        assert self.began.acquire(timeout=PATIENCE_S)

    def let_go(self):
        self._goes_on.set()


@pytest.fixture
def held(rig):
    held = Held(rig)
    yield held
    held.let_go()
    rig.finish()


def refused(code, call, *arguments, **named):
    with pytest.raises(DemonError) as raised:
        call(*arguments, **named)
    assert raised.value.code == code
    return raised.value.message


@pytest.mark.parametrize("recipe", ["fp32", "mixed", "fp8"])
def test_an_exact_tick_has_the_velocities_of_a_merged_checkpoint_to_the_bit(recipe):
    rig = with_loras(Rig(recipe))
    case = rig.case()
    bare = rig.tick(case)
    mix = rig.ask(_0=0.7, _1=-0.5)
    heard = rig.tick(case, exact=True)
    assert torch.equal(heard, rig.expected(mix, case))
    assert not torch.equal(heard, bare)
    rig.ask()
    assert torch.equal(rig.tick(case, exact=True), bare)


def test_it_is_eager_with_merged_weights_and_nothing_drifts(rig):
    case = rig.case()
    for strength in (0.1, 1.3, -0.4, 0.9, 0.3):
        rig.ask(_0=strength)
        rig.tick(case, exact=True)
    mix = rig.ask(_0=0.5, _1=1.0)
    heard = rig.tick(case, exact=True)
    torch.testing.assert_close(heard, eager(merged(rig.model, mix))(**case), atol=2e-5, rtol=2e-5)
    fresh = with_loras(Rig())
    fresh.ask(_0=0.5, _1=1.0)
    assert torch.equal(fresh.tick(case, exact=True), heard)


def test_only_what_changes_is_written_and_strength_0_costs_nothing(rig):
    case = rig.case()
    rig.ask(_0=0.0)
    rig.tick(case, exact=True)
    assert rig.refits == []
    rig.ask(_1=1.0)
    rig.tick(case, exact=True)
    attention = sorted(f"{name}.weight" for name in factors(rig.model, seed=2, names=lambda name: ATTENTION in name))
    assert rig.refits == [attention]
    rig.ask(_0=0.0, _1=0.0)
    bare = rig.tick(case, exact=True)
    assert rig.refits == [attention], "the other engine is bare still"
    assert torch.equal(bare, Rig()(case))


def test_the_arrays_of_one_block_at_a_time_are_handed_over(rig):
    rig.ask(_0=1.0)
    rig.tick(rig.case(), exact=True)
    blocks = [{name.rpartition(".self_attn")[0] for name in names if ".self_attn." in name} for names in rig.refits]
    assert blocks == [set(), {"layers.0"}, {"layers.1"}]


def test_a_live_tick_does_not_wait_and_hears_it_once_it_is_there(rig, held):
    case = rig.case()
    before = rig.tick(case)
    mix = rig.ask(_0=0.7)
    held.wait_until_one_begins()
    for _ in range(3):
        assert torch.equal(rig.tick(case), before)
    held.let_go()
    rig.finish()
    assert torch.equal(rig.tick(case), rig.expected(mix, case))


def test_all_runs_of_a_tick_have_the_same_weights(rig):
    """A refit that ends between two of them is heard by the next tick."""
    case = rig.case(rows=9)
    before = rig.tick(case)
    mix = rig.ask(_0=0.7)
    rig.finish()
    assert torch.equal(rig(case), before)
    heard = rig.tick(case)
    assert torch.equal(heard[:1], rig.expected(mix, {name: part[[0, 1, 2]] for name, part in case.items()})[:1])
    assert torch.equal(rig(case), heard)


def test_while_a_fader_moves_only_its_newest_value_is_written(rig, held):
    case = rig.case()
    rig.tick(case)
    rig.ask(_1=0.1)
    held.wait_until_one_begins()
    for k in range(2, 11):
        mix = rig.ask(_1=k / 10)
        rig.tick(case)
    held.let_go()
    rig.finish()
    rig.tick(case)
    rig.finish()
    assert torch.equal(rig.tick(case), rig.expected(mix, case))
    assert len(rig.refits) == 2


def test_a_value_that_is_overtaken_is_still_heard_so_that_a_moving_fader_is_never_mute(rig):
    case = rig.case()
    first = rig.ask(_1=0.1)
    rig.finish()
    rig.ask(_1=0.6)
    assert torch.equal(rig.tick(case), rig.expected(first, case))


def test_one_that_is_asked_back_meanwhile_is_not_heard(rig):
    case = rig.case()
    before = rig.tick(case)
    rig.ask(_1=0.5)
    rig.finish()
    rig.ask()
    assert torch.equal(rig.tick(case), before)
    assert torch.equal(rig.tick(case, exact=True), before)


def test_small_changes_are_left_out_while_playing_and_never_when_it_must_be_exact(rig):
    case = rig.case()
    rig.ask(_1=0.5)
    heard = rig.tick(case, exact=True)
    mix = rig.ask(_1=0.51)
    rig.finish()
    assert torch.equal(rig.tick(case), heard)
    assert len(rig.refits) == 1
    assert torch.equal(rig.tick(case, exact=True), rig.expected(mix, case))


def test_an_exact_tick_waits_for_the_newest_when_an_older_one_is_under_way(rig, held):
    case = rig.case()
    rig.ask(_1=0.2)
    held.wait_until_one_begins()
    mix = rig.ask(_1=0.8)
    held.let_go()
    assert torch.equal(rig.tick(case, exact=True), rig.expected(mix, case))


@pytest.mark.parametrize("writes", [0, 3, 20])
def test_a_refit_that_fails_leaves_what_played_and_the_next_one_is_whole(rig, caplog, writes):
    case = rig.case()
    rig.ask(_1=1.0)
    heard = rig.tick(case, exact=True)
    for engine in rig.engines:
        engine.writes_left = writes
    mix = rig.ask(_0=0.4)
    said = refused("E_ENGINE_REFIT", rig.tick, case, exact=True)
    assert "cudaMemcpyAsync failed" in said
    assert "what played goes on unchanged" in said
    assert said in caplog.text
    assert torch.equal(rig.tick(case), heard)
    for engine in rig.engines:
        engine.writes_left = 10**6
    assert torch.equal(rig.tick(case), heard), "it is not tried again by itself"
    assert torch.equal(rig.tick(case, exact=True), rig.expected(mix, case)), "what was half written is written again"


def test_after_a_failure_another_strength_is_tried(rig):
    case = rig.case()
    for engine in rig.engines:
        engine.writes_left = 1
    rig.ask(_0=0.4)
    rig.finish()
    rig.tick(case)
    for engine in rig.engines:
        engine.writes_left = 10**6
    mix = rig.ask(_1=0.4)
    rig.finish()
    assert torch.equal(rig.tick(case), rig.expected(mix, case))


def test_what_tensorrt_laid_together_is_written_together():
    """Of a LoRA for queries only, keys and values are written, too, with the weights that they have."""
    group = [f"{ATTENTION}{name}.weight" for name in "qkv"]
    rig = Rig(groups=[group])
    rig.bank.add(factors(rig.model, seed=1, names=lambda name: name == f"{ATTENTION}q"))
    case = rig.case()
    mix = rig.ask(_0=1.0)
    assert torch.equal(rig.tick(case, exact=True), rig.expected(mix, case))
    assert rig.refits == [sorted(group)]


def test_the_scales_of_fp8_are_written_with_their_weights():
    names = ["layers.1.mlp.up_proj.weight", "layers.1.mlp.up_proj.weight_scale"]
    rig = Rig("fp8", groups=[names])
    rig.bank.add(factors(rig.model, seed=1, names=lambda name: name == "layers.1.mlp.up_proj"))
    case = rig.case()
    mix = rig.ask(_0=30.0)  # which no channel's old scale has room for
    heard = rig.tick(case, exact=True)
    assert rig.refits == [names]
    assert torch.equal(heard, rig.expected(mix, case))
    assert bool(heard.isfinite().all())


def test_a_foreign_weight_in_the_group_is_told():
    rig = Rig(groups=[[f"{ATTENTION}q.weight", "rotary_cos"]])
    rig.bank.add(factors(rig.model, seed=1, names=lambda name: name == f"{ATTENTION}q"))
    rig.ask(_0=1.0)
    assert "wants 'rotary_cos' with them" in refused("E_ENGINE_REFIT", rig.tick, rig.case(), exact=True)


def test_a_form_that_is_met_meanwhile_gets_its_context_before_the_engines_change_places(rig):
    rig.tick(rig.case())
    rig.ask(_1=1.0)
    rig.finish()
    longer = rig.case(frames=60)
    rig(longer)  # by the engine that plays
    contexts = [engine.contexts_left for engine in rig.engines]
    playing = rig.decoder._program
    rig.decoder.settle(exact=False)
    assert rig.decoder._program is playing, "no tick makes a context that it had already"
    rig.finish()
    rig.decoder.settle(exact=False)
    assert rig.decoder._program is not playing
    assert sum(contexts) - sum(engine.contexts_left for engine in rig.engines) == 1
    mix = mixed(rig.bank, _1=1.0)
    assert torch.equal(rig(longer), rig.expected(mix, longer))


def test_the_buffers_of_a_form_are_those_of_both_engines(rig):
    case = rig.case()
    rig.tick(case)
    (before,) = rig.decoder._program.forms.values()
    rig.ask(_1=1.0)
    rig.tick(case, exact=True)
    (after,) = rig.decoder._program.forms.values()
    assert after is before


def test_without_room_for_the_other_engines_contexts_what_played_goes_on(rig):
    case = rig.case()
    heard = rig.tick(case)
    rig.engines[1].contexts_left = 0
    rig.ask(_1=1.0)
    assert "nvidia-smi" in refused("E_MEMORY", rig.tick, case, exact=True)
    assert torch.equal(rig.tick(case), heard)


def test_rows_have_no_strengths_of_their_own(rig):
    said = refused("E_BACKEND", rig, rig.case(), torch.ones(2, 1))
    assert "one set of weights" in said


def test_an_engine_that_was_built_otherwise_than_its_note_says_is_refused():
    rig = Rig()
    rig.engines[0].weights.pop(f"{ATTENTION}q.weight")
    said = refused("E_ENGINE_FILE", rig.decoder.adapt, rig.model, CPU)
    assert f"{ATTENTION}q.weight cannot be written" in said
    assert said.endswith("--precision fp32 --refit --force-rebuild")
    other = Rig()
    other.engines[1].weights[f"{ATTENTION}q.weight"] = torch.zeros(3)
    assert "is 3 of float" in refused("E_ENGINE_FILE", other.decoder.adapt, other.model, CPU)


@pytest.mark.skipif(
    not (torch.cuda.is_available() and torch.cuda.get_device_capability() in ((8, 9), (12, 0))), reason=NO_GPU
)
@pytest.mark.parametrize(("recipe", "tolerance"), [("fp32", 1e-3), ("mixed", 0.02), ("fp8", 0.2)])
def test_an_engine_takes_loras_on_its_gpu(recipe, tolerance, tmp_path):
    device, model, checkpoint = torch.device("cuda:0"), decoder(), "5f" * 32
    folder = tmp_path / "engine"
    folder.mkdir()
    built_decoder(folder, model, checkpoint_hash=checkpoint, name=recipe, gpus=[capability(device)], is_refittable=True)
    run = OpenEngines("a", checkpoint, device).decoder(folder)
    run.adapt(model, device)
    bank = AdapterBank()
    bank.add(factors(model, seed=1))
    case = {name: part.to(device) for name, part in inputs(model, 2, 40, 16).items()}

    def velocity(mix):
        run.ask(mix)
        run.settle(exact=True)
        condition = run.encode(case["encoder_hidden_states"], case["encoder_mask"])
        return run(case["hidden_states"], case["timestep"], case["context_latents"], condition).cpu()

    bare, mix = velocity(mixed(bank)), mixed(bank, _0=0.7)
    heard = velocity(mix)
    on_host = {name: part.cpu() for name, part in case.items()}
    for got, model_of in ((bare, mixed(bank)), (heard, mix)):
        wanted = eager(merged(model, model_of))(**on_host)
        assert float((got - wanted).norm() / wanted.norm()) < tolerance
    assert torch.equal(velocity(mixed(bank)), bare)
