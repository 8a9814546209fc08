# SPDX-License-Identifier: Apache-2.0
"""What the tests of the exports share: small decoders and a small VAE of random weights, and inputs for them."""

from __future__ import annotations

import warnings

import msgspec
import torch
from diffusers import AutoencoderOobleck
from diffusers.models import AceStepTransformer1DModel

from engine_server.model.dit import DitForward
from engine_server.model.recipes import RECIPES
from trt_engines.calibrate import recorded
from trt_engines.engine_folder import ENGINE, METADATA, file_hash
from trt_engines.metadata import SCHEMA, Machine, Metadata, sizes_of, write_metadata
from trt_engines.profiles import Span, decoder_axes
from trt_engines.tensorrt_library import load_tensorrt

SIZES = {
    "small": {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
    # Like XL: attention width 64, hidden width 40, condition width 24.
    "xl": {
        "hidden_size": 40, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16, "encoder_hidden_size": 24,
    },
}  # fmt: skip
MAX_FRAMES = 120
A_MACHINE = Machine("tensorrt_rtx", "1.7.1", "SM89")
HOP = 32
LATENTS = 8


def decoder(size="small", *, seed=0):
    """Two layers, one of each kind, whose window of 6 tokens is shorter than most inputs; no weight is zero or one."""
    torch.manual_seed(seed)
    model = AceStepTransformer1DModel(
        intermediate_size=48, num_hidden_layers=2, sliding_window=6, **SIZES[size]
    ).eval().requires_grad_(False)  # fmt: skip
    for part in model.parameters():
        part.add_(torch.randn_like(part) / 20)
    return model


def eager(model):
    """`DitForward` with the inputs of the exported decoder."""
    forward = DitForward(model)

    def run(hidden_states, timestep, encoder_hidden_states, encoder_mask, context_latents):
        return forward(hidden_states, timestep, context_latents, forward.encode(encoder_hidden_states, encoder_mask))

    return run


def inputs(model, rows, frames, tokens, *, seed=1):
    """Inputs of the exported decoder; each row hears at least one token, and most rows not all of them."""
    generator = torch.Generator().manual_seed(seed)
    heard = torch.randint(1, tokens + 1, (rows, 1), generator=generator)
    return {
        "hidden_states": torch.randn(rows, frames, 64, generator=generator),
        "timestep": torch.rand(rows, generator=generator),
        "encoder_hidden_states": torch.randn(
            rows, tokens, model.condition_embedder.in_features, generator=generator
        ),
        "encoder_mask": torch.arange(tokens).expand(rows, -1) < heard,
        "context_latents": torch.randn(rows, frames, 128, generator=generator),
    }  # fmt: skip


def oobleck():
    """A VAE of ACE-Step's kind with 32 samples per frame, whose Snakes are not what they were initialised to."""
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of the weight norm that diffusers uses
        return _varied(_oobleck())


def _oobleck():
    return AutoencoderOobleck(
        encoder_hidden_size=2 * LATENTS,
        downsampling_ratios=[2, 4, 4],
        channel_multiples=[1, 2, 2],
        decoder_channels=LATENTS,
        decoder_input_channels=LATENTS,
        sampling_rate=25 * HOP,
    ).eval().requires_grad_(False)  # fmt: skip


def _varied(vae):
    for name, part in vae.named_parameters():
        if name.endswith(("alpha", "beta")):
            part.normal_(0, 0.3)
    return vae


def largest_inputs(model, cases):
    """Of every Linear of the blocks, over some inputs of the exported decoder."""
    with recorded(model) as largest, torch.no_grad():
        for case in cases:
            eager(model)(**case)
    return dict(largest)


def built_decoder(folder, model, *, checkpoint_hash, name="fp32", gpus=("SM89", "SM120"), is_refittable=False):
    """The folder, in which there now is a decoder's engine for some kinds of GPU, with its note."""
    # Here, because without the extra `trt` the rest of this module is of use, too.
    from trt_engines.build_engine import build_engine
    from trt_engines.export_decoder import export_decoder, refit_weights

    axes = decoder_axes(Span(1, 2, 4), Span(32, 40, MAX_FRAMES), Span(16, 16, 64))
    onnx = folder.with_suffix(".onnx")
    recipe = RECIPES[name]
    largest = largest_inputs(model, [inputs(model, 2, 40, 16)]) if recipe.needs_calibration else {}
    export_decoder(model, onnx, recipe=recipe, max_frames=MAX_FRAMES, largest_inputs=largest)
    written = refit_weights(model, recipe) if is_refittable else ()
    size = build_engine(onnx, folder / ENGINE, axes, compute_capabilities=gpus, refittable=written)
    library = load_tensorrt()
    machine = Machine(library.name, library.version, ",".join(gpus))
    note = engine_note(f"decoder_{name}_b4_60s", axes, precision=name, machine=machine, checkpoint_hash=checkpoint_hash)
    whole = msgspec.structs.replace(
        note, engine_hash=file_hash(folder / ENGINE), engine_bytes=size, is_refittable=is_refittable
    )
    write_metadata(folder / METADATA, whole)
    return folder


def engine_note(
    name, axes, *, precision, component="decoder", machine=A_MACHINE, checkpoint_hash="5f" * 32
):  # fmt: skip
    """The note of an engine without bytes."""
    return Metadata(
        schema=SCHEMA,
        component=component,
        name=name,
        precision=precision,
        is_refittable=False,
        machine=machine,
        recipe=str(RECIPES[precision]),
        calibration_hash=None,
        checkpoint="ACE-Step/turbo",
        checkpoint_hash=checkpoint_hash,
        onnx_hash="00" * 32,
        inputs=sizes_of(axes),
        engine_hash="00" * 32,
        engine_bytes=0,
        seconds=1.0,
        built_at="2026-01-01T00:00:00+00:00",
    )
