# SPDX-License-Identifier: Apache-2.0
"""The codec layer: margins follow from the strides and are tight, windows equal the whole wherever they lie, and encoding is
repeatable."""

from __future__ import annotations

import itertools
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from codec_stand_in import PositionedCodec
from diffusers import AutoencoderOobleck
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_server.model.codec import (
    Codec,
    CompiledCodec,
    Gain,
    OobleckCodec,
    decoder_reach,
    describe_peak,
    encoder_reach,
    load_codec,
    peak,
    with_backend,
)
from engine_server.model.spectral_codec import SpectralCodec
from engine_server.model.windows import (
    LONGEST_SPAN,
    Span,
    decode_full,
    decode_window,
    encode_full,
    encode_window,
    plan_window,
    plan_windows,
    sliding_windows,
    stitch_windows,
    stream_window,
)
from engine_server.session_audio import SessionAudio
from engine_server.types import Latent
from shared_protocol.errors import DemonError

EMBEDDED_VAE = Path(__file__).parents[2] / "engine_server" / "assets" / "embedded" / "vae"
ACE_STEP_STRIDES = (2, 4, 4, 6, 10)
TOLERANCE = (
    1e-6  # float32 rounding, times the largest value where that is above 1: a convolution's bits depend on its length
)
FRAMES = 80
PLACES = {
    "start": (0, 9),
    "one frame": (1, 1),
    "odd": (37, 7),
    "end": (71, 9),
    "last frame": (79, 1),
    "whole": (0, FRAMES),
}
strides = st.lists(st.sampled_from([2, 4, 6, 8, 10]), min_size=1, max_size=3).filter(lambda s: math.prod(s) <= 100)
few_examples = settings(max_examples=15)


def oobleck_vae(ratios: tuple[int, ...], channels: int = 4, **changes: int) -> AutoencoderOobleck:
    torch.manual_seed(7)
    sizes = {
        "encoder_hidden_size": 2 * channels,
        "decoder_channels": channels,
        "decoder_input_channels": channels,
        "sampling_rate": 25 * math.prod(ratios),
    }
    multiples = [1] * len(ratios)
    return AutoencoderOobleck(downsampling_ratios=list(ratios), channel_multiples=multiples, **sizes | changes).eval()


@pytest.fixture(params=["embedded", "oobleck", "shallow oobleck"], scope="module")
def codec(request: pytest.FixtureRequest) -> Codec:
    if request.param == "oobleck":
        return OobleckCodec(oobleck_vae((2, 4, 4)))
    if request.param == "shallow oobleck":
        return OobleckCodec(oobleck_vae((10,)))
    if not EMBEDDED_VAE.exists():
        pytest.skip("no embedded checkpoint in this tree")
    return load_codec(EMBEDDED_VAE)


def some_latents(codec: Codec, frames: int = FRAMES) -> torch.Tensor:
    return torch.randn(frames, codec.latent_channels, generator=torch.Generator().manual_seed(1))


def some_audio(codec: Codec, samples: int) -> torch.Tensor:
    return 0.3 * torch.randn(2, samples, generator=torch.Generator().manual_seed(2))


def assert_equal_within_rounding(part: torch.Tensor, whole: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert part.shape == whole.shape
    assert (part - whole).abs().max() <= tolerance * whole.abs().max().clamp(min=1)


# Margins


def influenced(vae: AutoencoderOobleck, latent: int, frames: int) -> torch.Tensor:
    """The samples that depend on a latent through the decoder, by its derivative in float64: nothing is too small to see."""
    latents = torch.randn(1, vae.config.decoder_input_channels, frames, dtype=torch.float64)
    tangent = torch.zeros_like(latents)
    tangent[..., latent] = torch.randn(latents.shape[1], dtype=torch.float64)
    _, change = torch.func.jvp(lambda z: vae.decode(z).sample, (latents,), (tangent,))
    return change[0].abs().amax(0).nonzero().flatten()


def seen(vae: AutoencoderOobleck, latent: int, frames: int) -> torch.Tensor:
    """The samples that a latent depends on through the encoder."""
    audio = torch.randn(1, 2, frames * vae.hop_length, dtype=torch.float64, requires_grad=True)
    mean = vae.encode(audio).latent_dist.mean
    mean[..., latent].mul(torch.randn(mean.shape[1], dtype=torch.float64)).sum().backward()
    return audio.grad[0].abs().amax(0).nonzero().flatten()


@given(strides)
@few_examples
def test_the_decoder_reaches_exactly_as_far_as_its_strides_say(ratios):
    vae, hop, reach = oobleck_vae(ratios, channels=2).double(), math.prod(ratios), decoder_reach(ratios)
    margin = OobleckCodec(vae).decoder_margin
    samples = influenced(vae, margin + 2, 2 * margin + 5)
    first = (margin + 2) * hop
    assert (int(samples.min()), int(samples.max()) + 1) == (first - reach, first + hop + reach)
    assert (int(samples.min()) // hop, int(samples.max()) // hop) == (2, 2 * margin + 2)


@given(strides)
@few_examples
def test_the_encoder_reaches_exactly_as_far_as_its_strides_say(ratios):
    vae, hop, reach = oobleck_vae(ratios, channels=2).double(), math.prod(ratios), encoder_reach(ratios)
    margin = OobleckCodec(vae).encoder_margin
    samples = seen(vae, margin + 2, 2 * margin + 5)
    first = (margin + 2) * hop
    assert (int(samples.min()), int(samples.max()) + 1) == (first - reach, first + hop + reach)
    assert (int(samples.min()) // hop, int(samples.max()) // hop) == (2, 2 * margin + 2)


def test_ace_step_needs_nine_frames_around_a_decoded_window_and_seven_around_an_encoded_one():
    vae = oobleck_vae(ACE_STEP_STRIDES, channels=1).double()
    codec = OobleckCodec(vae)
    assert (codec.hop, codec.sample_rate) == (1920, 48000)
    assert (decoder_reach(ACE_STEP_STRIDES), encoder_reach(ACE_STEP_STRIDES)) == (16_005, 12_165)
    assert (codec.decoder_margin, codec.encoder_margin) == (9, 7)
    samples = influenced(vae, 10, 21)
    assert (int(samples.min()), int(samples.max()) + 1) == (10 * 1920 - 16_005, 11 * 1920 + 16_005)
    samples = seen(vae, 8, 17)
    assert (int(samples.min()), int(samples.max()) + 1) == (8 * 1920 - 12_165, 9 * 1920 + 12_165)


@given(strides, st.data())
@few_examples
def test_windows_of_any_oobleck_equal_the_whole(ratios, data):
    codec = OobleckCodec(oobleck_vae(ratios))
    total = 2 * codec.decoder_margin + 20
    first = data.draw(st.integers(0, total - 1))
    count = data.draw(st.integers(1, total - first))
    latents, audio, hop = some_latents(codec, total), some_audio(codec, total * codec.hop), codec.hop
    with torch.no_grad():
        whole, encoded = codec.decode(latents[None])[0], codec.encode(audio[None])[0]
    window = decode_window(codec, latents, first, count)
    assert_equal_within_rounding(window, whole[:, first * hop : (first + count) * hop])
    assert_equal_within_rounding(encode_window(codec, audio, first, count), encoded[first : first + count])


@pytest.mark.parametrize(
    ("ratios", "changes", "message"),
    [
        ((2, 3), {}, "downsampling_ratios is .2, 3.; it must be even"),
        ((2, 4), {"sampling_rate": 44_100}, "sampling_rate is 44100; it must be 200"),
        ((2, 4), {"encoder_hidden_size": 6}, "encoder_hidden_size is 6; it must be 8"),
        ((2, 4), {"audio_channels": 1}, "audio_channels is 1; it must be 2"),
    ],
    ids=["odd stride", "rate", "latent width", "mono"],
)
def test_a_vae_that_cannot_be_the_codec_is_refused_with_the_field_at_fault(ratios, changes, message):
    with pytest.raises(DemonError, match=message) as refusal:
        OobleckCodec(oobleck_vae(ratios, **changes))
    assert refusal.value.code == "E_CHECKPOINT_LAYOUT"


# Encoding: mean and sample


@torch.no_grad()
def test_oobleck_encodes_to_the_mean_or_to_diffusers_own_sample():
    vae = oobleck_vae((2, 4))
    audio = some_audio(OobleckCodec(vae), 30 * 8)[None]
    posterior = vae.encode(audio).latent_dist
    assert torch.equal(OobleckCodec(vae).encode(audio), posterior.mean.transpose(1, 2))
    sample = OobleckCodec(vae).encode(audio, torch.Generator().manual_seed(5))
    assert torch.equal(sample, posterior.sample(torch.Generator().manual_seed(5)).transpose(1, 2))


@torch.no_grad()
def test_a_seeded_sample_is_repeatable_and_spread_as_the_posterior_says(codec):
    audio = some_audio(codec, 40 * codec.hop)[None]
    mean, std = codec.posterior(audio)
    assert torch.equal(codec.encode(audio), mean)
    samples = [codec.encode(audio, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])
    deviation = ((samples[0] - mean) / std).flatten()
    assert float(deviation.std()) == pytest.approx(1, abs=5 / math.sqrt(2 * deviation.numel()))  # five standard errors


@torch.no_grad()
def test_encoding_leaves_the_global_generator_alone(codec):
    audio = some_audio(codec, 8 * codec.hop)
    before = torch.get_rng_state()
    encode_full(codec, audio)
    encode_full(codec, audio, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_sampled_window_is_the_wholes_sample(codec):
    audio = some_audio(codec, FRAMES * codec.hop)
    whole = encode_full(codec, audio, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        assert torch.equal(whole, codec.encode(audio[None], torch.Generator().manual_seed(9))[0])
    window = encode_window(codec, audio, 31, 11, generator=torch.Generator().manual_seed(9))
    assert_equal_within_rounding(window, whole[31:42])


# Windows equal the whole


@pytest.mark.parametrize(("first", "count"), PLACES.values(), ids=PLACES.keys())
@torch.no_grad()
def test_a_decoded_window_equals_the_whole(codec, first, count):
    latents = some_latents(codec)
    whole = codec.decode(latents[None])[0, :, first * codec.hop : (first + count) * codec.hop]
    assert_equal_within_rounding(decode_window(codec, latents, first, count), whole)
    for fixed in (2 * codec.decoder_margin + 1, 2 * codec.decoder_margin + 8, FRAMES):
        assert_equal_within_rounding(decode_window(codec, latents, first, count, fixed_span=fixed), whole)


@pytest.mark.parametrize(("first", "count"), PLACES.values(), ids=PLACES.keys())
@torch.no_grad()
def test_an_encoded_window_equals_the_whole(codec, first, count):
    audio = some_audio(codec, FRAMES * codec.hop)
    whole = codec.encode(audio[None])[0, first : first + count]
    assert_equal_within_rounding(encode_window(codec, audio, first, count), whole)


@pytest.mark.parametrize(
    ("turn", "place", "count"), [(0, -3, 6), (1, -1, 2), (0, 0, FRAMES), (2, 5, 1), (0, -9, FRAMES + 30)]
)
@torch.no_grad()
def test_a_cyclic_window_equals_the_endless_loop_across_the_seam(codec, turn, place, count):
    total, hop = math.lcm(FRAMES, codec.position_period), codec.hop
    latents, audio = some_latents(codec, total), some_audio(codec, total * hop)
    first, begin = turn * total + place, total * 2 + place % total  # begin: within five turns of the loop
    loop = codec.decode(latents.repeat(5, 1)[None])[0, :, begin * hop : (begin + count) * hop]
    assert_equal_within_rounding(decode_window(codec, latents, first, count, cyclic=True), loop)
    fixed = decode_window(codec, latents, first, count, cyclic=True, fixed_span=2 * codec.decoder_margin + 3)
    assert_equal_within_rounding(fixed, loop)
    encoded = codec.encode(audio.repeat(1, 5)[None])[0, begin : begin + count]
    assert_equal_within_rounding(encode_window(codec, audio, first, count, cyclic=True), encoded)


@torch.no_grad()
def test_a_loop_shorter_than_the_fixed_span_needs_no_silence(codec):
    frames = max(5, codec.position_period)
    latents, hop = some_latents(codec, frames), codec.hop
    turns = 2 * math.ceil(codec.decoder_margin / frames) + 1
    loop = codec.decode(latents.repeat(turns, 1)[None])[0]
    middle = turns // 2 * frames * hop
    audio = decode_full(codec, latents, cyclic=True, fixed_span=2 * codec.decoder_margin + frames + 4)
    assert_equal_within_rounding(audio, loop[:, middle : middle + frames * hop])


@pytest.mark.parametrize("frames", [1, 6, 17])
@torch.no_grad()
def test_a_piece_shorter_than_the_fixed_span_is_decoded_as_if_silence_followed(codec, frames):
    span, hop = 2 * codec.decoder_margin + 5, codec.hop
    latents, silence = some_latents(codec, frames), torch.full((codec.latent_channels,), 0.25)
    followed = torch.cat([latents, silence.expand(span - frames, -1)])
    whole = decode_full(codec, latents, fixed_span=span, silence=silence)
    assert torch.equal(whole, codec.decode(followed[None])[0, :, : frames * hop])
    last = decode_window(codec, latents, frames - 1, 1, fixed_span=span, silence=silence)
    assert torch.equal(last, whole[:, -hop:])
    untouched = max(0, frames - codec.decoder_margin) * hop
    alone = codec.decode(latents[None])[0]
    if untouched:
        assert_equal_within_rounding(whole[:, :untouched], alone[:, :untouched])
    assert_equal_within_rounding(decode_full(codec, latents), alone)
    with pytest.raises(DemonError, match="silence must be given"):
        decode_full(codec, latents, fixed_span=span)


class SpanRecorder:
    """A codec that notes how many frames each call of its decoder and encoder gets."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self.decoded: list[int] = []
        self.encoded: list[int] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._codec, name)

    def decode(self, latents: torch.Tensor, position: int = 0) -> torch.Tensor:
        self.decoded.append(latents.shape[1])
        return self._codec.decode(latents, position)

    def posterior(self, audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.encoded.append(audio.shape[-1] // self._codec.hop)
        return self._codec.posterior(audio)


@torch.no_grad()
def test_a_long_piece_is_coded_in_pieces_of_one_length_and_equals_one_call(codec):
    total = 2 * LONGEST_SPAN + 137
    recorder, latents = SpanRecorder(codec), some_latents(codec, total)
    audio = some_audio(codec, total * codec.hop - 3)
    assert_equal_within_rounding(decode_full(recorder, latents), codec.decode(latents[None])[0])
    whole = codec.encode(torch.nn.functional.pad(audio, (0, 3))[None])[0]
    assert_equal_within_rounding(encode_full(recorder, audio), whole)
    assert set(recorder.decoded) == set(recorder.encoded) == {LONGEST_SPAN}


def test_a_decoder_of_one_shape_sees_that_shape_wherever_the_window_lies(codec):
    span = 2 * codec.decoder_margin + 4
    recorder = SpanRecorder(codec)
    for first, count in PLACES.values():
        decode_window(recorder, some_latents(codec), first, count, fixed_span=span)
    assert set(recorder.decoded) == {span}


@pytest.mark.parametrize("missing", [0, 1, 700])
def test_audio_of_any_length_is_encoded_with_zeros_after_its_end(codec, missing):
    audio = some_audio(codec, 12 * codec.hop)
    cut = 12 * codec.hop - min(missing, codec.hop - 1)
    audio[:, cut:] = 0
    assert torch.equal(encode_full(codec, audio[:, :cut]), encode_full(codec, audio))


@torch.no_grad()
def test_a_window_that_is_all_there_is_but_for_its_margins_gets_the_bits_of_one_plain_call(codec):
    """A track encodes and decodes chunks that it cuts itself, margins included: the cut must not change a bit."""
    margin, count, hop = codec.decoder_margin, 6, codec.hop
    latents = some_latents(codec, count + 2 * margin)
    plain = codec.decode(latents[None])[0, :, margin * hop : -margin * hop]
    assert torch.equal(decode_window(codec, latents, margin, count), plain)
    margin = codec.encoder_margin
    audio = some_audio(codec, (count + 2 * margin) * hop)
    assert torch.equal(encode_window(codec, audio, margin, count), codec.encode(audio[None])[0, margin:-margin])


def test_windows_outside_a_linear_piece_and_broken_loops_are_refused(codec):
    latents = some_latents(codec, 10)
    for first, count in ((-1, 2), (9, 2), (0, 0), (10, 1)):
        with pytest.raises(DemonError, match="within the 10 frames"):
            decode_window(codec, latents, first, count)
    with pytest.raises(DemonError, match="no multiple"):
        encode_full(codec, some_audio(codec, 3 * codec.hop + 1), cyclic=True)
    with pytest.raises(DemonError, match="at least"):
        decode_full(codec, some_latents(codec), fixed_span=2 * codec.decoder_margin)


# Positions


def positioned(**sizes: int) -> PositionedCodec:
    return PositionedCodec(**{"hop": 8, "latent_channels": 4} | sizes)


@pytest.mark.parametrize("position", [0, 5, -40, 1003])
@pytest.mark.parametrize(("first", "count"), PLACES.values(), ids=PLACES.keys())
def test_a_decoder_that_knows_positions_is_told_the_absolute_frame(first, count, position):
    codec = positioned()
    latents = some_latents(codec)
    whole = codec.decode(latents[None], position)[0, :, first * codec.hop : (first + count) * codec.hop]
    for fixed in (None, 2 * codec.decoder_margin + 1, 2 * codec.decoder_margin + 8):
        window = decode_window(codec, latents, first, count, position=position, fixed_span=fixed)
        assert torch.equal(window, whole)
    if position % codec.position_period:
        assert not torch.equal(decode_window(codec, latents, first, count), whole)


def test_a_long_piece_keeps_its_positions_over_all_the_calls_of_its_decoder():
    codec = positioned()
    latents = some_latents(codec, 2 * LONGEST_SPAN + 137)
    assert torch.equal(decode_full(codec, latents, position=-3), codec.decode(latents[None], -3)[0])


@pytest.mark.parametrize("total", [1, 5, 7, 14, 20], ids="{} frames".format)
@pytest.mark.parametrize("fixed", [None, 9], ids=["any span", "fixed span"])
def test_a_cyclic_window_has_the_wholes_positions_whatever_the_loops_length(total, fixed):
    codec = positioned()
    latents = some_latents(codec, total)
    whole = decode_full(codec, latents, cyclic=True, position=2)
    endless = whole.repeat(1, 9)
    for first in range(-2 * total, 2 * total):
        for count in (1, total, 2 * total + 3):
            window = decode_window(codec, latents, first, count, cyclic=True, fixed_span=fixed, position=2)
            begin = (first + 3 * total) * codec.hop
            assert torch.equal(window, endless[:, begin : begin + count * codec.hop])


def test_a_loop_of_whole_periods_sounds_endless_and_another_fades_to_its_start_in_its_last_frame():
    codec, hop = positioned(), 8
    latents = some_latents(codec, 3 * codec.position_period)
    endless = codec.decode(latents.repeat(3, 1)[None])[0].chunk(3, dim=1)[1]
    assert torch.equal(decode_full(codec, latents, cyclic=True), endless)

    latents, total = latents[:-2], len(latents) - 2
    whole = decode_full(codec, latents, cyclic=True)
    turns = latents.repeat(3, 1)[None]
    own, next_turns = (codec.decode(turns, -shift * total)[0].chunk(3, dim=1)[1] for shift in (1, 2))
    assert torch.equal(whole[:, :-hop], own[:, :-hop])
    weight = torch.arange(1, hop + 1) / (hop + 1)
    faded = own[:, -hop:] * (1 - weight) + next_turns[:, -hop:] * weight
    torch.testing.assert_close(whole[:, -hop:], faded, atol=1e-6, rtol=0)


def test_a_loop_of_nothing_is_refused():
    with pytest.raises(DemonError, match="within the 0 frames"):
        decode_full(positioned(), torch.zeros(0, 4), cyclic=True)


def test_a_session_decodes_a_part_of_a_piece_at_the_place_where_it_lies(tiny):
    codec = PositionedCodec()
    session = SessionAudio(tiny, codec, 0.0)
    piece = Latent(some_latents(codec, 30))
    whole, margin, hop = session.decode(piece).waveform, codec.decoder_margin, codec.hop
    part = session.decode(piece.part(5, 20))
    inside = slice((5 + margin) * hop, (25 - margin) * hop)
    assert torch.equal(part.waveform[:, margin * hop : -margin * hop], whole[:, inside])
    window = session.decode_window(piece.part(5, 20), margin, 20 - 2 * margin)
    assert torch.equal(window.waveform, whole[:, inside])
    loop = session.decode_window(piece.part(5, 20), margin + 20, 1, cyclic=True)
    assert torch.equal(loop.waveform, whole[:, inside][:, :hop])
    assert codec.positions[-1] == 5


# Planning


@given(
    total=st.integers(1, 400),
    margin=st.integers(0, 20),
    spare=st.none() | st.integers(0, 100),
    cyclic=st.booleans(),
    data=st.data(),
)
def test_a_plan_covers_window_and_margins_and_stays_in_the_piece(total, margin, spare, cyclic, data):
    first = data.draw(st.integers(-500, 500) if cyclic else st.integers(0, total - 1))
    count = data.draw(st.integers(1, 300) if cyclic else st.integers(1, total - first))
    needed = Span(first - margin, first + count + margin)
    if not cyclic:
        needed = Span(max(0, needed.first), min(total, needed.stop))
    fixed = None if spare is None else len(needed) + spare
    plan = plan_window(first, count, total, margin, cyclic=cyclic, fixed=fixed)
    assert plan.keep == Span(first, first + count)
    assert plan.span.first <= needed.first
    assert needed.stop <= plan.span.stop
    assert len(plan.span) == (len(needed) if fixed is None else fixed)
    assert plan.span.first + plan.trim_left == first
    if not cyclic:
        assert plan.span.first >= 0
        assert plan.padding == max(0, len(plan.span) - total)
    if fixed is not None:
        with pytest.raises(DemonError, match="need"):
            plan_window(first, count, total, margin, cyclic=cyclic, fixed=len(needed) - 1)


@given(
    total=st.integers(1, 3000),
    margin=st.integers(0, 20),
    fixed=st.none() | st.integers(41, 600),
    cyclic=st.booleans(),
    data=st.data(),
)
def test_plans_tile_the_window_with_spans_of_one_length(total, margin, fixed, cyclic, data):
    first = data.draw(st.integers(0, total - 1))
    count = data.draw(st.integers(1, total - first))
    plans = plan_windows(first, count, total, margin, cyclic=cyclic, fixed=fixed)
    assert [plan.keep.first for plan in plans] == [first, *(plan.keep.stop for plan in plans[:-1])]
    assert plans[-1].keep.stop == first + count
    lengths = {len(plan.span) for plan in plans}
    assert len(lengths) == 1
    assert lengths <= ({fixed} if fixed else set(range(1, LONGEST_SPAN + 1)))


@pytest.mark.parametrize(
    ("first", "span", "trim_left"), [(250, Span(242, 267), 8), (0, Span(0, 25), 0), (491, Span(475, 500), 16)]
)
def test_a_fixed_span_sits_around_its_window_and_moves_inside_at_the_edges(first, span, trim_left):
    plan = plan_window(first, 9, 500, 8, fixed=25)
    assert (plan.span, plan.trim_left, plan.padding) == (span, trim_left, 0)


# A stream's window


@pytest.mark.parametrize(
    ("playhead_s", "keep_s", "cyclic", "span"),
    [
        (10.0, 0.36, False, Span(250, 259)),
        (10.039, 0.36, False, Span(250, 259)),
        (10.0, 0.28, False, Span(250, 257)),  # 0.28 * 25 is above 7 in floating point
        (10.0, 0.281, False, Span(250, 258)),
        (25.0, 0.36, False, Span(491, 500)),
        (19.9, 0.36, False, Span(491, 500)),
        (-1.0, 0.36, False, Span(0, 9)),
        (19.9, 0.36, True, Span(497, 506)),
        (25.0, 0.36, True, Span(125, 134)),
        (-1.0, 0.36, True, Span(475, 484)),
        (12.0, 20.0, False, Span(0, 500)),
        (12.0, 60.0, True, Span(0, 500)),
    ],
)
def test_a_streams_window_starts_at_the_frame_of_the_playhead(playhead_s, keep_s, cyclic, span):
    window = stream_window(playhead_s, keep_s, 500, 48_000, cyclic=cyclic)
    assert (window.span, window.start_sample) == (span, span.first * 1920)


@given(playhead_s=st.floats(-100, 100), keep_s=st.floats(0.001, 100), total=st.integers(1, 2000), cyclic=st.booleans())
def test_all_windows_of_a_stream_are_equally_long(playhead_s, keep_s, total, cyclic):
    window = stream_window(playhead_s, keep_s, total, 48_000, cyclic=cyclic)
    assert len(window.span) == len(stream_window(0.0, keep_s, total, 48_000).span)
    assert 0 <= window.span.first < total
    assert cyclic or window.span.stop <= total


@pytest.mark.parametrize(
    ("playhead_s", "keep_s"), [(math.nan, 1.0), (math.inf, 1.0), (0.0, math.nan), (0.0, 0.0), (0.0, -1.0)]
)
def test_times_that_name_no_window_are_refused(playhead_s, keep_s):
    with pytest.raises(DemonError, match="keep_s must be at least one sample"):
        stream_window(playhead_s, keep_s, 500, 48_000)


# Sliding windows


@given(total=st.integers(1, 20_000), tens=st.integers(1, 200), data=st.data())
def test_sliding_windows_cover_the_piece_on_the_grid_of_patches_and_codes(total, tens, data):
    window, overlap = 10 * tens, 10 * data.draw(st.integers(0, tens - 1))
    spans = sliding_windows(total, window, overlap)
    assert {len(span) for span in spans} == {min(window, -(-total // 10) * 10)}
    assert all(span.first % 10 == 0 for span in spans)
    assert spans[0].first == 0
    assert 0 <= spans[-1].stop - total < 10
    assert all(before.stop - after.first >= overlap for before, after in itertools.pairwise(spans))
    assert [span.first for span in spans] == sorted({span.first for span in spans})


@given(total=st.integers(1, 600), tens=st.integers(2, 12), data=st.data())
@few_examples
def test_windows_that_agree_are_stitched_to_the_very_bits(total, tens, data):
    overlap = 10 * data.draw(st.integers(1, tens - 1))
    spans = sliding_windows(total, 10 * tens, overlap)
    piece = torch.randn(spans[-1].stop, 4, generator=torch.Generator().manual_seed(total))
    windows = {span.first: piece[span.first : span.stop] for span in spans}
    assert torch.equal(stitch_windows(windows, crossfade=data.draw(st.integers(0, overlap))), piece)


def test_windows_that_differ_fade_evenly_in_the_middle_of_their_overlap():
    joined = stitch_windows({0: torch.zeros(20, 1), 10: torch.ones(20, 1)}, crossfade=4)
    expected = torch.cat([torch.zeros(13), torch.tensor([0.2, 0.4, 0.6, 0.8]), torch.ones(13)])
    torch.testing.assert_close(joined[:, 0], expected, atol=1e-7, rtol=0)


def test_windows_off_the_grid_or_without_room_to_fade_are_refused():
    for window, overlap in ((1495, 100), (1500, 95), (1500, 1500), (1500, -10), (0, 0)):
        with pytest.raises(DemonError, match="multiples of 10"):
            sliding_windows(4000, window, overlap)
    with pytest.raises(DemonError, match="overlaps by 10 frames; crossfade needs 12"):
        stitch_windows({0: torch.zeros(20, 1), 10: torch.zeros(20, 1)}, crossfade=12)


# Level


@torch.no_grad()
def test_output_above_full_scale_is_kept_the_same_in_a_window_as_in_the_whole():
    vae = oobleck_vae((2, 4, 4))
    vae.decoder.conv2.weight_g *= 40
    codec = OobleckCodec(vae)
    latents = some_latents(codec)
    whole = decode_full(codec, latents)
    assert peak(whole) > 2
    loudest = int(whole.abs().amax(0).argmax()) // codec.hop
    window = decode_window(codec, latents, loudest, 1)
    assert peak(window) == pytest.approx(peak(whole), rel=1e-5)


def test_a_gain_is_the_same_everywhere_and_nothing_at_0_db():
    audio = torch.randn(2, 100)
    assert torch.equal(Gain()(audio), audio)
    torch.testing.assert_close(Gain(6.0)(audio), audio * 1.9952623, rtol=1e-6, atol=0)
    assert torch.equal(Gain(-3.0)(audio[:, 40:50]), Gain(-3.0)(audio)[:, 40:50])
    for db in (24.1, -25.0, math.inf, math.nan):
        with pytest.raises(DemonError, match="gain is"):
            Gain(db)


@pytest.mark.parametrize(
    ("magnitude", "sentence"),
    [
        (1.148, "peaks at +1.2 dBFS; floats above full scale are kept"),
        (0.5, "peaks at -6.0 dBFS"),
        (1.0, "peaks at +0.0 dBFS"),
        (0.0, "is silent"),
        (math.nan, "holds samples that are not finite"),
    ],
)
def test_a_peak_is_said_in_words(magnitude, sentence):
    assert describe_peak(peak(torch.tensor([[0.0, -magnitude]]))) == sentence


def test_the_peak_of_an_array_and_of_nothing():
    assert peak(some_audio(None, 100).numpy()) == peak(some_audio(None, 100))
    assert peak(torch.zeros(2, 0)) == 0


# Backends


@torch.no_grad()
def test_a_compiled_decoder_equals_the_eager_one_at_its_length_and_takes_no_other():
    torch.manual_seed(3)
    narrow = {"encoder_width": 8, "encoder_hidden": 8, "decoder_width": 8, "decoder_hidden": 8}
    eager = SpectralCodec(**narrow, encoder_blocks=1, decoder_blocks=1).eval()
    span = 2 * eager.decoder_margin + 7
    compiled = with_backend(eager, "compile", fixed_span=span)
    assert isinstance(compiled, CompiledCodec)
    latents = some_latents(eager, span + 22)
    # Fused, the steps from log-magnitudes to phases and back round differently.
    for decode in (decode_full, partial(decode_window, first=30, count=1)):
        assert_equal_within_rounding(decode(compiled, latents), decode(eager, latents), tolerance=2e-5)
    with pytest.raises(ValueError, match=f"latents has 10 frames; this codec is compiled for {span}"):
        compiled.decode(latents[None, :10])
    audio = some_audio(eager, 4 * 1920)
    assert torch.equal(encode_full(compiled, audio), encode_full(eager, audio))


@torch.no_grad()
def test_a_compiled_decoder_is_told_the_position_and_is_not_compiled_anew_for_it():
    eager = positioned()
    compiled = with_backend(eager, "compile", fixed_span=9)
    assert compiled.position_period == eager.position_period
    latents = some_latents(eager, 31)
    decode_full(compiled, latents[:9])
    with torch._dynamo.config.patch(error_on_recompile=True):
        for position in (1, 5, -3, 10**9):
            whole = decode_full(compiled, latents, position=position)
            assert_equal_within_rounding(whole, decode_full(eager, latents, position=position))


def test_oobleck_knows_no_position():
    codec = OobleckCodec(oobleck_vae((10,)))
    latents = some_latents(codec, 12)[None]
    assert codec.position_period == 1
    with torch.no_grad():
        assert torch.equal(codec.decode(latents, 3), codec.decode(latents))


def test_backends_are_named_and_spans_within_the_margins_refused():
    codec = OobleckCodec(oobleck_vae((10,)))
    assert with_backend(codec, "eager", fixed_span=1) is codec
    with pytest.raises(DemonError, match="backend is 'onnx', not one of eager, compile"):
        with_backend(codec, "onnx", fixed_span=100)
    with pytest.raises(DemonError, match=f"at least {2 * codec.decoder_margin + 1} frames"):
        with_backend(codec, "compile", fixed_span=2 * codec.decoder_margin)
