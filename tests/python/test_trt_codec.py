# SPDX-License-Identifier: Apache-2.0
"""The codec over engines, simulated: windows of the engines' lengths give what the eager codec gives of the whole."""

from __future__ import annotations

import pytest
import torch
from trt_rig import HOP, LATENTS, oobleck
from trt_simulation import Engine, HostOrder, library, scratch

from engine_server.model.codec import OobleckCodec
from engine_server.model.spectral_codec import SpectralCodec
from engine_server.model.windows import decode_full, encode_full
from shared_protocol.errors import DemonError
from trt_engines.engine_codec import EngineCodec
from trt_engines.engine_program import EngineProgram
from trt_engines.oobleck_modules import OobleckDecoder, OobleckEncoder
from trt_engines.open_engines import OpenEngines
from trt_engines.profiles import Span, vae_decoder_axes, vae_encoder_axes

ENCODE, ONE = Span(30, 40, 60), Span(1, 1, 1)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def eager():
    return OobleckCodec(oobleck())


def codec(eager, *, span, **engine):
    order, lib = HostOrder(), library()
    shared = scratch(order)
    encoder, decoder = OobleckEncoder(eager.vae, torch.float32), OobleckDecoder(eager.vae, torch.float32)

    def encode(given):
        with torch.no_grad():
            return dict(zip(("mean", "std"), (part.contiguous() for part in encoder(**given)), strict=True))

    def decode(given):
        with torch.no_grad():
            return {"audio": decoder(**given)}

    made = Engine(
        encode, {"audio": torch.float32}, ["mean", "std"], vae_encoder_axes(ONE, ENCODE, hop=HOP), library=lib,
        order=order, **engine,
    )  # fmt: skip
    back = Engine(
        decode, {"latents": torch.float32}, ["audio"], vae_decoder_axes(ONE, Span(span, span, span)), library=lib,
        order=order, **engine,
    )  # fmt: skip
    programs = [EngineProgram(one, lib, shared, name="codec") for one in (made, back)]
    return EngineCodec(eager, *programs, encoder_frames=ENCODE, fixed_span=span)


@pytest.mark.parametrize("frames", [10, 45, 100])
def test_a_piece_of_any_length_decodes_as_eagerly(eager, frames):
    torch.manual_seed(1)
    latents, silence = torch.randn(frames, LATENTS), torch.zeros(LATENTS)
    span = 2 * eager.decoder_margin + 9
    got = decode_full(codec(eager, span=span), latents, silence=silence)
    wanted = decode_full(eager, latents, fixed_span=span, silence=silence)
    assert got.shape == (2, frames * HOP)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("frames", [30, 45, 60, 61, 150])
def test_audio_encodes_as_eagerly_however_many_windows_it_takes(eager, frames):
    torch.manual_seed(2)
    audio = torch.rand(2, 2, frames * HOP) - 0.5
    got, wanted = codec(eager, span=99).posterior(audio), eager.posterior(audio)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_audio_below_the_least_is_encoded_as_if_silence_followed(eager):
    torch.manual_seed(3)
    audio = torch.rand(2, 20 * HOP) - 0.5
    got = encode_full(codec(eager, span=99), audio)
    wanted = encode_full(eager, torch.cat([audio, torch.zeros(2, 10 * HOP)], dim=1))[:20]
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_a_seed_draws_the_eager_codecs_sample(eager):
    audio = torch.rand(1, 2, 40 * HOP) - 0.5
    one, other = (
        each.encode(audio, torch.Generator().manual_seed(7)) for each in (codec(eager, span=99), eager)
    )  # fmt: skip
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_rows_decode_one_by_one_and_other_lengths_are_refused(eager):
    mine = codec(eager, span=99)
    latents = torch.randn(3, 99, LATENTS)
    torch.testing.assert_close(mine.decode(latents), eager.decode(latents), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="latents has 98 frames; this codec's engine takes 99"):
        mine.decode(latents[:, :98])


def test_what_cannot_be_says_what_to_do(eager):
    with pytest.raises(DemonError, match="E_FIELD: fixed_span is 3"):
        codec(eager, span=3)
    with pytest.raises(DemonError, match=r"E_MEMORY: .*nvidia-smi.*eager"):
        codec(eager, span=99, contexts=0).decode(torch.zeros(1, 99, LATENTS))
    with pytest.raises(DemonError, match=r"E_BACKEND: .*not ACE-Step's.*use vae_backend 'eager'"):
        OpenEngines("embedded", "5f" * 32, CPU).codec(SpectralCodec(), "e", "d", span=None)
