# SPDX-License-Identifier: Apache-2.0
"""A decoder over two simulated engines whose weights can be written, and LoRAs for it."""

from __future__ import annotations

import copy
from pathlib import Path

import msgspec
import torch
from trt_rig import MAX_FRAMES, decoder, engine_note, inputs, largest_inputs
from trt_simulation import CPU, HostOrder, RefittableEngine, library, scratch

from engine_server.model.lora import AdapterBank, linear_shapes
from engine_server.model.lora_mix import Mix
from engine_server.model.recipes import RECIPES
from trt_engines.decoder_module import ExportableDecoder
from trt_engines.engine_decoder import EngineDecoder
from trt_engines.engine_file import EngineFile, Wanted
from trt_engines.engine_program import EngineProgram
from trt_engines.export_decoder import refit_weights
from trt_engines.forward_plan import DecoderSizes
from trt_engines.profiles import Span, decoder_axes

AXES = decoder_axes(Span(1, 2, 4), Span(32, 40, MAX_FRAMES), Span(8, 16, 64))
TYPES = {name: torch.bool if name == "encoder_mask" else torch.float32 for name in AXES}
PATIENCE_S = 120
"""For what takes milliseconds."""


def factors(model, *, seed, names=lambda name: True, rank=2):
    """Of a LoRA for the Linears whose names are wanted."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(rank, inside, generator=generator), torch.randn(outside, rank, generator=generator) / 10)
        for name, (outside, inside) in linear_shapes(model).items()
        if names(name)
    }


def mixed(bank, **strengths):
    """A mix of what a bank holds, by place: `mixed(bank, _0=0.5)`."""
    held = bank.snapshot
    return Mix(held, held.strengths({int(place[1:]): value for place, value in strengths.items()}))


def exported(model, recipe, largest):
    return ExportableDecoder(model, recipe=recipe, max_frames=MAX_FRAMES, largest_inputs=largest).eval()


def merged(model, mix):
    """A transformer whose own weights are the mix's."""
    other = copy.deepcopy(model)
    for name, part in other.named_modules():
        if isinstance(part, torch.nn.Linear):
            part.weight = torch.nn.Parameter(mix.weight(name, part.weight), requires_grad=False)
    return other


class Rig:
    """engine: options of both `RefittableEngine`s."""

    def __init__(self, recipe="fp32", model=None, note=None, **engine):
        self.model = decoder() if model is None else model
        self.recipe = RECIPES[recipe]
        self.largest = largest_inputs(self.model, [inputs(self.model, 2, 40, 16)]) if recipe == "fp8" else {}
        self.order, self.library = HostOrder(), library()
        block, names = scratch(self.order), refit_weights(self.model, self.recipe)
        self.engines = [
            RefittableEngine(
                copy.deepcopy(exported(self.model, self.recipe, self.largest)), names, TYPES, ["velocity"], AXES,
                library=self.library, order=self.order, **engine,
            )
            for _ in range(2)
        ]  # fmt: skip
        playing, spare = (EngineProgram(one, self.library, block, name="decoder") for one in self.engines)
        note = note or engine_note("decoder_refit_60s", AXES, precision=recipe)
        note = msgspec.structs.replace(note, is_refittable=True)
        file = EngineFile(Path("engine.plan"), Wanted("decoder", "ACE-Step/turbo", "5f" * 32), note)
        self.decoder = EngineDecoder(playing, DecoderSizes.of(file), spare)
        self.decoder.adapt(self.model, CPU)
        self.bank = AdapterBank()

    @property
    def weights(self):
        return self.decoder._weights

    @property
    def refits(self):
        """Names that each refit has written, of both engines."""
        return [names for engine in self.engines for names in engine.refits]

    def ask(self, **strengths):
        mix = mixed(self.bank, **strengths)
        self.decoder.ask(mix)
        return mix

    def finish(self):
        """Whatever refit is under way."""
        with self.weights._changes:
            assert self.weights._changes.wait_for(lambda: not self.weights._is_busy, PATIENCE_S)

    def tick(self, case, *, exact=False):
        self.decoder.settle(exact=exact)
        return self(case)

    def __call__(self, case, adapters=None):
        condition = self.decoder.encode(case["encoder_hidden_states"], case["encoder_mask"], adapters)
        return self.decoder(case["hidden_states"], case["timestep"], case["context_latents"], condition, adapters)

    def case(self, rows=2, frames=40, tokens=16, **more):
        return inputs(self.model, rows, frames, tokens, **more)

    @torch.no_grad()
    def expected(self, mix, case):
        """What an engine that was exported of the merged weights computes."""
        module = exported(merged(self.model, mix), self.recipe, self.largest)
        return module(**case)
