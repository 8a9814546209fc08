# SPDX-License-Identifier: Apache-2.0
"""The embedded model's codec: windows equal the whole, margins are tight, encoding is deterministic and finite."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from engine_server.model.spectral_codec import SpectralCodec

EMBEDDED_VAE = Path(__file__).parents[2] / "engine_server" / "assets" / "embedded" / "vae"
FRAMES = 40
EXACT = 1e-9
TOLERANCE = 1e-6  # float32 rounding; the bits of a convolution may depend on its length
TINY = {"encoder_width": 16, "encoder_hidden": 24, "decoder_width": 16, "decoder_hidden": 24}
LAYOUTS = {
    "embedded": {},
    "shallow": {"encoder_blocks": 1, "decoder_blocks": 2, "iterations": 1},
    "short windows": {"windows": (3840, 1920, 960), "decoder_blocks": 1, "kernel": 5, "iterations": 3},
}


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys(), scope="module")
def codec(request: pytest.FixtureRequest) -> SpectralCodec:
    torch.manual_seed(3)
    return SpectralCodec(**TINY, **request.param).eval()


@pytest.fixture(scope="module")
def embedded() -> SpectralCodec:
    if not EMBEDDED_VAE.exists():
        pytest.skip("no embedded checkpoint in this tree")
    return SpectralCodec.from_pretrained(EMBEDDED_VAE, torch_dtype=torch.float32).eval()


def music(frames: int) -> torch.Tensor:
    """Decaying chords of harmonic tones, panned: [1, 2, frames * 1920] at 48 kHz."""
    time_s = torch.arange(frames * 1920, dtype=torch.float64) / 48000
    left = torch.zeros_like(time_s)
    right = torch.zeros_like(time_s)
    for index, pitch_hz in enumerate((110.0, 220.0, 277.2, 329.6, 440.0)):
        for harmonic in range(1, 9):
            tone = torch.sin(2 * torch.pi * pitch_hz * harmonic * time_s) / harmonic**1.5
            tone = tone * torch.exp(-3 * (time_s + 0.07 * index) % 0.8)
            left += tone * (0.4 + 0.1 * index)
            right += tone * (0.8 - 0.1 * index)
    return 0.1 * torch.stack([left, right])[None].float()


def window_bounds(start: int, end: int, margin: int) -> tuple[int, int]:
    """The window with its margin, cut at the song's edges."""
    return max(0, start - margin), min(FRAMES, end + margin)


@pytest.mark.parametrize(
    "field",
    [
        *(
            {"windows": sizes}
            for sizes in ((0, 0, 0), (7680, 3840), (1920, 3840, 7680), ("a", "b", "c"), (7680, 3840, 1000))
        ),
        *({"kernel": 2}, {"kernel": 0}, {"iterations": -1}, {"iterations": "2"}),
    ],
    ids=str,
)
def test_a_layout_that_cannot_be_is_refused_by_name(field: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        SpectralCodec(**TINY, **field)


@torch.no_grad()
def test_silence_is_silent_and_a_song_that_begins_at_once_begins_at_once(embedded: SpectralCodec) -> None:
    silence = embedded.decode(embedded.encode(torch.zeros(1, 2, FRAMES * 1920)))
    assert silence.abs().max() < 1e-3  # -60 dBFS, at the edges
    assert silence[..., 8 * 1920 : -8 * 1920].std() < 1e-4
    song = embedded.encode(music(FRAMES))
    whole, late = embedded.decode(song), embedded.decode(song[:, 20:], 20)
    level = late[..., :1920].std() / whole[..., 20 * 1920 : 21 * 1920].std()
    assert 0.7 < level < 1.25


@pytest.mark.parametrize(("start", "end"), [(0, 9), (15, 26), (33, FRAMES)], ids=["start", "middle", "end"])
@torch.no_grad()
def test_a_decoded_window_equals_the_whole(codec: SpectralCodec, start: int, end: int) -> None:
    """In float64, so that nothing but the reach can make a difference."""
    exact = copy.deepcopy(codec).double()
    latents = torch.randn(1, FRAMES, 64, generator=torch.Generator().manual_seed(1)).double()
    first, last = window_bounds(start, end, codec.decoder_margin)
    window = exact.decode(latents[:, first:last], first)[..., (start - first) * 1920 : (end - first) * 1920]
    whole = exact.decode(latents)[..., start * 1920 : end * 1920]
    assert (window - whole).abs().max() <= EXACT * whole.abs().max().clamp(min=1)


@pytest.mark.parametrize(("start", "end"), [(0, 9), (15, 26), (33, FRAMES)], ids=["start", "middle", "end"])
@torch.no_grad()
def test_an_encoded_window_equals_the_whole(codec: SpectralCodec, start: int, end: int) -> None:
    """In float64, so that nothing but the reach can make a difference."""
    exact = copy.deepcopy(codec).double()
    audio = music(FRAMES).double()
    first, last = window_bounds(start, end, codec.encoder_margin)
    window = exact.encode(audio[..., first * 1920 : last * 1920])[:, start - first : end - first]
    whole = exact.encode(audio)[:, start:end]
    assert (window - whole).abs().max() <= EXACT * whole.abs().max().clamp(min=1)


@torch.no_grad()
def test_the_decoder_margin_holds_and_is_no_wider_than_three_frames_too_many(codec: SpectralCodec) -> None:
    """The windows' edges weigh next to nothing: the outermost frames drown in float32's rounding."""
    latents = torch.randn(1, FRAMES, 64, generator=torch.Generator().manual_seed(2))
    changed = latents.clone()
    changed[:, FRAMES // 2] += 1
    difference = (codec.decode(changed) - codec.decode(latents)).abs().amax((0, 1)).reshape(FRAMES, 1920).amax(1)
    touched = difference.nonzero().flatten() - FRAMES // 2
    margin = codec.decoder_margin
    assert -margin <= int(touched.min()) <= 3 - margin
    assert margin - 3 <= int(touched.max()) <= margin


@torch.no_grad()
def test_the_encoder_margin_is_exact(codec: SpectralCodec) -> None:
    audio = music(FRAMES)
    changed = audio.clone()
    changed[..., FRAMES // 2 * 1920 : (FRAMES // 2 + 1) * 1920] *= -0.5
    difference = (codec.encode(changed) - codec.encode(audio)).abs().amax((0, 2))
    touched = difference.nonzero().flatten() - FRAMES // 2
    assert (int(touched.min()), int(touched.max())) == (-codec.encoder_margin, codec.encoder_margin)


@torch.no_grad()
def test_encoding_twice_gives_the_same_bits(codec: SpectralCodec) -> None:
    audio = music(FRAMES)
    assert torch.equal(codec.encode(audio), codec.encode(audio))


@torch.no_grad()
def test_digital_silence_is_finite_and_steady(codec: SpectralCodec) -> None:
    latents = codec.encode(torch.zeros(1, 2, FRAMES * 1920))
    inner = latents[:, codec.encoder_margin : -codec.encoder_margin]
    assert latents.isfinite().all()
    assert (inner - inner[:, :1]).abs().max() <= 1e-5
    assert codec.decode(latents).isfinite().all()


def test_encoding_a_broken_frame_is_refused(codec: SpectralCodec) -> None:
    with pytest.raises(ValueError, match="multiple of 1920"):
        codec.encode(torch.zeros(1, 2, 1921))


@torch.no_grad()
def test_saving_and_loading_keeps_configuration_statistics_and_bits(codec: SpectralCodec, tmp_path: Path) -> None:
    codec.latent_mean.fill_(0.25)
    codec.latent_std.fill_(2.0)
    codec.save_pretrained(tmp_path)
    loaded = SpectralCodec.from_pretrained(tmp_path).eval()
    audio = music(FRAMES)
    assert dict(loaded.config)["decoder_blocks"] == codec.config.decoder_blocks
    assert (loaded.encoder_margin, loaded.decoder_margin) == (codec.encoder_margin, codec.decoder_margin)
    assert torch.equal(loaded.encode(audio), codec.encode(audio))
    assert torch.equal(loaded.decode(loaded.encode(audio)), codec.decode(codec.encode(audio)))


@torch.no_grad()
def test_the_phase_grid_repeats_after_its_period(codec: SpectralCodec) -> None:
    latents = torch.randn(1, 12, 64, generator=torch.Generator().manual_seed(4))
    assert codec.position_period == 320
    at = {position: codec.decode(latents, position) for position in (0, 3, 20, 320, -317, 100_000_003)}
    assert torch.equal(at[320], at[0])
    assert torch.equal(at[-317], at[3])
    assert not torch.equal(at[20], at[0])  # partials are in phase again, the noise is another
    assert torch.equal(at[100_000_003], at[3])
    assert not torch.equal(at[3], at[0])
    assert torch.equal(codec.decode(latents, torch.tensor(3)), at[3])


@torch.no_grad()
def test_the_embedded_codec_keeps_within_half_a_second_of_reach(embedded: SpectralCodec) -> None:
    assert (embedded.sample_rate, embedded.hop, embedded.latent_channels) == (48000, 1920, 64)
    assert embedded.encoder_margin <= 5
    assert embedded.decoder_margin <= 12


@torch.no_grad()
def test_an_embedded_window_equals_the_whole(embedded: SpectralCodec) -> None:
    audio = music(FRAMES)
    latents = embedded.encode(audio)
    encoder, decoder = embedded.encoder_margin, embedded.decoder_margin
    window = embedded.encode(audio[..., (15 - encoder) * 1920 : (25 + encoder) * 1920])[:, encoder:-encoder]
    assert (window - latents[:, 15:25]).abs().max() <= 1e-5  # latents are divided by their small spread
    whole = embedded.decode(latents)[..., 15 * 1920 : 25 * 1920]
    part = embedded.decode(latents[:, 15 - decoder : 25 + decoder], 15 - decoder)
    assert (part[..., decoder * 1920 : -decoder * 1920] - whole).abs().max() <= TOLERANCE
