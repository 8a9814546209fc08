# SPDX-License-Identifier: Apache-2.0
"""A small audio codec with a bounded reach: 48 kHz stereo <-> 64 latent channels at 25 frames per second.

Three bands, since 1600 latent numbers per second cannot carry a waveform:

- The lowest of mid is transform-coded: its MDCT coefficients (Princen and Bradley 1986), companded, are the first
  latent channels, and their inverse goes straight to the output.
- Up to about 1 kHz a network predicts magnitude and phase: a ConvNeXt trunk (Liu et al. 2022) between an STFT front end
  and an ISTFT head (Vocos, Siuzdak 2023), on mid and side, coded by the other latent channels.
- Above, it predicts the magnitude only, and noise fills it (perceptual noise substitution, Schulz 1996): a phase that
  the latents cannot carry would degenerate into a buzz at the sub-frame rate. The noise is no random draw. Each bin's
  phase is a scrambling of the low bins' phases: repeatable, and the same in every window.

Every operation is local and position-independent, so a window decoded (encoded) with `decoder_margin`
(`encoder_margin`) frames of context on each side equals the same span of the whole song's decoding.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

COMPLEX_FLOOR = 1e-5  # added to a magnitude before its inverse square root (feature compression)
MEL_FLOOR = 1e-4  # about -100 dB below a full-scale sine's bin
COMPANDING_KNEE = 0.02  # MDCT coefficient where companding turns from linear to square root, about -60 dBFS
LOG_MAGNITUDE_BIAS = 4.0  # an untrained head starts quiet: exp(-4)
LOG_MAGNITUDE_MAX = 4.0  # ceiling of the log-magnitude, about 14 dB over a full-scale sine's bin
PHASE_FLOOR = 1e-6  # keeps the unit phase vector differentiable at the origin
HANN_SQUARED_OVERLAP = 1.5  # sum of squared Hann windows at a hop of a quarter window


def mel_filter_bank(sample_rate: int, fft_size: int, bands: int) -> Tensor:
    """Triangular filters on the HTK mel scale, each of unit sum: [bands, fft_size // 2 + 1]."""
    bins_hz = torch.linspace(0, sample_rate / 2, fft_size // 2 + 1, dtype=torch.float64)
    top_mel = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges_hz = 700 * (10 ** (torch.linspace(0, top_mel, bands + 2, dtype=torch.float64) / 2595) - 1)
    # Low bands can be narrower than a bin: widen each to at least one bin so that none is empty.
    centre = edges_hz[1:-1, None]
    bin_width = sample_rate / fft_size
    rising = (centre - edges_hz[:-2, None]).clamp_min(bin_width)
    falling = (edges_hz[2:, None] - centre).clamp_min(bin_width)
    distance = bins_hz[None, :] - centre
    filters = (1 - torch.where(distance < 0, -distance / rising, distance / falling)).clamp_min(0)
    return (filters / filters.sum(1, keepdim=True)).float()


def mdct_basis(hop: int, bands: int) -> Tensor:
    """The lowest MDCT basis functions under a sine window, orthonormal across frames: [bands, 2 * hop]."""
    time = torch.arange(2 * hop, dtype=torch.float64) + 0.5
    band = torch.arange(bands, dtype=torch.float64)[:, None] + 0.5
    basis = torch.sin(math.pi * time / (2 * hop)) * torch.cos(math.pi / hop * (time + hop / 2) * band)
    return (basis * math.sqrt(2 / hop)).float()


def noise_like(mean: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise for a posterior `[B, N, C]`, from this generator alone.

    Drawn `[B, C, N]` on the generator's device, as diffusers' `latent_dist.sample(generator)` draws it.
    """
    batch, frames, channels = mean.shape
    noise = torch.randn((batch, channels, frames), generator=generator, device=generator.device, dtype=mean.dtype)
    return noise.transpose(1, 2).to(mean.device)


def compand(coefficients: Tensor) -> Tensor:
    """A smooth signed square root, linear below the knee."""
    return coefficients * (coefficients.square() + COMPANDING_KNEE**2).pow(-0.25)


def expand(companded: Tensor) -> Tensor:
    """The inverse of `compand`."""
    square = companded.square()
    root = (square.square() + 4 * COMPANDING_KNEE**2).sqrt()
    return companded * ((square + root) / 2).sqrt()


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then a pointwise MLP, residual: [B, C, T] -> [B, C, T]."""

    def __init__(self, channels: int, hidden: int, kernel: int):
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, hidden)
        self.project = nn.Linear(hidden, channels)
        self.gain = nn.Parameter(torch.full((channels,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).transpose(1, 2))
        y = self.gain * self.project(F.gelu(self.expand(y)))
        mixed: Tensor = x + y.transpose(1, 2)
        return mixed


def _unit(vector: Tensor) -> Tensor:
    """Each (cosine, sine) pair along the last axis but one, scaled to length one."""
    return vector * torch.rsqrt(vector.square().sum(-2, keepdim=True) + PHASE_FLOOR)


def _trunk(blocks: int, channels: int, hidden: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(*[ConvNeXtBlock(channels, hidden, kernel) for _ in range(blocks)])


class SpectralCodec(ModelMixin, ConfigMixin):  # type: ignore[misc]  # the bases disagree on config_name
    """Encoder and decoder; sizes in the config, per-channel latent statistics in buffers.

    The trunk runs at two rates: `hop` samples (frames) and `fft_hop` samples (sub-frames).
    """

    fixed_span: int | None = None
    config: Any  # a FrozenDict with attribute access to what __init__ was given
    latent_mean: Tensor
    latent_std: Tensor
    window: Tensor
    mel: Tensor
    mdct: Tensor
    noise_sources: Tensor
    noise_multiplier: Tensor
    noise_weight: Tensor

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        sample_rate: int = 48000,
        hop: int = 1920,
        latent_channels: int = 64,
        waveform_channels: int = 40,
        fft_size: int = 1920,
        fft_hop: int = 480,
        input_bins: int = 96,
        mel_bands: int = 128,
        encoder_width: int = 224,
        encoder_hidden: int = 672,
        encoder_blocks: int = 3,
        encoder_frame_blocks: int = 1,
        decoder_width: int = 256,
        decoder_hidden: int = 768,
        decoder_blocks: int = 6,
        decoder_frame_blocks: int = 2,
        frame_hidden: int = 1024,
        kernel: int = 7,
        frame_kernel: int = 3,
        phase_bins: int = 44,
        scramble_first_bin: int = 4,
        scramble_bins: int = 24,
    ):
        """`waveform_channels`: latent channels that hold MDCT coefficients, sample_rate / hop / 2 Hz each.
        `phase_bins`: bins with a predicted phase; from bin scramble_first_bin + scramble_bins up to there it fades
        into noise. `scramble_bins`: how many low bins the noise is made from.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        if fft_size != 4 * fft_hop or hop % fft_hop:
            raise ValueError("fft_size must be 4 * fft_hop, and hop a multiple of fft_hop")
        if not scramble_first_bin + scramble_bins < phase_bins < fft_size // 2:
            raise ValueError("phase_bins must lie above the scrambled bins and below the Nyquist bin")
        subframes = hop // fft_hop
        bins = fft_size // 2 + 1
        self.encoder_in = nn.Conv1d(2 * (2 * input_bins + mel_bands), encoder_width, 1)
        self.encoder_trunk = _trunk(encoder_blocks, encoder_width, encoder_hidden, kernel)
        self.encoder_down = nn.Conv1d(encoder_width, encoder_width, subframes, stride=subframes)
        self.encoder_frame_trunk = _trunk(encoder_frame_blocks, encoder_width, frame_hidden, frame_kernel)
        self.encoder_out = nn.Conv1d(encoder_width, 2 * (latent_channels - waveform_channels), 1)
        self.decoder_in = nn.Conv1d(latent_channels, decoder_width, 1)
        self.decoder_frame_trunk = _trunk(decoder_frame_blocks, decoder_width, frame_hidden, frame_kernel)
        self.decoder_up = nn.ConvTranspose1d(decoder_width, decoder_width, subframes, stride=subframes)
        self.decoder_trunk = _trunk(decoder_blocks, decoder_width, decoder_hidden, kernel)
        self.decoder_norm = nn.LayerNorm(decoder_width)
        self.decoder_head = nn.Linear(decoder_width, 2 * (bins + 2 * phase_bins))
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.ones(latent_channels))
        self.register_buffer("window", torch.hann_window(fft_size), persistent=False)
        self.register_buffer("mel", mel_filter_bank(sample_rate, fft_size, mel_bands), persistent=False)
        self.register_buffer("mdct", mdct_basis(hop, waveform_channels)[:, None], persistent=False)
        self._register_noise_tables(bins)

    def _register_noise_tables(self, bins: int) -> None:
        """For each bin from `noise_start` up, in mid and side: two low bins, a multiplier; and the fade."""
        c = self.config
        self.noise_start = c.scramble_first_bin + c.scramble_bins
        index = torch.arange(bins - self.noise_start)
        # Steps and lengths without common factors: no pattern repeats within the spectrum. The multipliers differ
        # from bin to bin, so that even a single tone below gives incoherent bins above.
        first = torch.stack([index * 7 % c.scramble_bins, index * 11 % c.scramble_bins])
        second = torch.stack([index * 5 % (c.scramble_bins - 1), index * 3 % (c.scramble_bins - 1)])
        self.register_buffer("noise_sources", torch.stack([first, second]) + c.scramble_first_bin, persistent=False)
        multiplier = torch.stack([2 + index * 5 % 7, 2 + index * 3 % 7]).float()
        self.register_buffer("noise_multiplier", multiplier, persistent=False)
        fade = (index / (c.phase_bins - self.noise_start)).clamp(max=1.0)
        self.register_buffer("noise_weight", fade, persistent=False)

    @property
    def sample_rate(self) -> int:
        """Samples per second."""
        return int(self.config.sample_rate)

    @property
    def hop(self) -> int:
        """Samples per latent frame."""
        return int(self.config.hop)

    @property
    def latent_channels(self) -> int:
        """Latent channels per frame."""
        return int(self.config.latent_channels)

    @property
    def encoder_margin(self) -> int:
        """Frames of context on each side beyond which audio cannot influence a latent frame."""
        c = self.config
        frames = c.encoder_frame_blocks * (c.frame_kernel // 2)
        subframes = c.encoder_blocks * (c.kernel // 2)
        samples: int = frames * c.hop + subframes * c.fft_hop + (c.fft_size - c.fft_hop) // 2
        return math.ceil(samples / self.hop)

    @property
    def decoder_margin(self) -> int:
        """Frames of context on each side beyond which a latent frame cannot influence a frame of audio."""
        c = self.config
        overlap_subframes = math.ceil((c.fft_size - c.fft_hop) / 2 / c.fft_hop)
        subframes: int = c.decoder_blocks * (c.kernel // 2) + overlap_subframes
        frames: int = c.decoder_frame_blocks * (c.frame_kernel // 2)
        trunk_frames: int = math.ceil(subframes * c.fft_hop / c.hop)
        return frames + trunk_frames

    def encode(self, audio: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, 2, N * hop] -> [B, N, 64], normalised per channel: the posterior's mean, or with a generator a sample."""
        mean, std = self.posterior(audio)
        return mean if generator is None else mean + std * noise_like(mean, generator)

    def posterior(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents, normalised per channel: [B, 2, N * hop] -> two [B, N, 64]."""
        mean, log_variance = self.moments(audio)
        return (mean - self.latent_mean) / self.latent_std, (log_variance / 2).exp() / self.latent_std

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents to audio: [B, N, 64] -> [B, 2, N * hop]."""
        return self.decode_raw(latents * self.latent_std + self.latent_mean)

    def moments(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior before normalisation: [B, 2, N * hop] -> two [B, N, 64]."""
        if audio.shape[-1] % self.hop:
            raise ValueError(f"audio length {audio.shape[-1]} is not a multiple of {self.hop} samples")
        h = self.encoder_trunk(self.encoder_in(self._features(audio)))
        h = self.encoder_frame_trunk(self.encoder_down(h))
        mean, log_variance = self.encoder_out(h).transpose(1, 2).chunk(2, dim=-1)
        waveform = self._analyse_waveform(audio)
        return torch.cat([waveform, mean], dim=-1), F.pad(log_variance, (waveform.shape[-1], 0), value=-8.0)

    def decode_raw(self, raw_latents: Tensor) -> Tensor:
        """Unnormalised latents to audio: [B, N, 64] -> [B, 2, N * hop]."""
        h = self.decoder_frame_trunk(self.decoder_in(raw_latents.transpose(1, 2)))
        h = self.decoder_trunk(self.decoder_up(h)).transpose(1, 2)
        waveform = self._synthesise_waveform(raw_latents[..., : self.config.waveform_channels])
        spectrum = self._spectrum(self.decoder_head(self.decoder_norm(h)), self._stft(waveform))
        mid, side = self._synthesise(spectrum).unbind(1)
        return torch.stack([mid + side, mid - side], dim=1)

    def _analyse_waveform(self, audio: Tensor) -> Tensor:
        """Companded low MDCT coefficients of mid: [B, 2, S] -> [B, N, waveform_channels]."""
        mid = F.pad(audio.mean(1, keepdim=True), (self.hop // 2, self.hop // 2))
        return compand(F.conv1d(mid, self.mdct, stride=self.hop)).transpose(1, 2)

    def _synthesise_waveform(self, companded: Tensor) -> Tensor:
        """The inverse of `_analyse_waveform`, band-limited: [B, N, waveform_channels] -> [B, N * hop]."""
        audio = F.conv_transpose1d(expand(companded).transpose(1, 2), self.mdct, stride=self.hop)
        return audio[:, 0, self.hop // 2 : -(self.hop // 2)]

    def _stft(self, x: Tensor) -> Tensor:
        """Spectra whose windows are centred on the sub-frames: [B, S] -> [B, bins, sub-frames]."""
        c = self.config
        pad = (c.fft_size - c.fft_hop) // 2
        padded = F.pad(x, (pad, pad))
        return torch.stft(padded, c.fft_size, c.fft_hop, window=self.window, center=False, return_complex=True)

    def _features(self, audio: Tensor) -> Tensor:
        """Compressed complex low bins and log-mel bands of mid and side: [B, 2, S] -> [B, features, sub-frames]."""
        c = self.config
        mid_side = torch.stack([audio[:, 0] + audio[:, 1], audio[:, 0] - audio[:, 1]], dim=1) / 2
        spectrum = self._stft(mid_side.flatten(0, 1)) / math.sqrt(c.fft_size)
        low = spectrum[:, : c.input_bins]
        low = 2 * low * (low.abs() + COMPLEX_FLOOR).rsqrt()
        log_mel = torch.log(self.mel @ spectrum.abs() + MEL_FLOOR) / 4 + 1
        features = torch.cat([low.real, low.imag, log_mel], dim=1)
        return features.reshape(audio.shape[0], -1, features.shape[-1])

    def _spectrum(self, head: Tensor, waveform: Tensor) -> Tensor:
        """Head output and mid's waveform-coded spectrum to complex spectra of mid and side.

        [B, T, 2 * (bins + 2 * phase_bins)] and [B, bins, T] -> [B, 2, T, bins].
        """
        p, start = self.config.phase_bins, self.noise_start
        values = head.reshape(*head.shape[:2], 2, -1).transpose(1, 2)
        log_magnitude = (values[..., 2 * p :] - LOG_MAGNITUDE_BIAS).clamp(max=LOG_MAGNITUDE_MAX)
        magnitude = log_magnitude.exp() * math.sqrt(self.config.fft_size)
        own = _unit(values[..., : 2 * p].reshape(*values.shape[:3], 2, p))  # [B, 2, T, 2 (cos, sin), p]
        low = own[..., :start] * magnitude[..., None, :start]
        coded = torch.view_as_real(waveform[:, :start]).permute(0, 2, 3, 1)  # [B, T, 2, start]
        low_mid = low[:, 0] + coded
        low = torch.stack([low_mid, low[:, 1]], dim=1)
        noise = self._noise(low_mid.detach())
        fading = F.pad(own[..., start:], (0, noise.shape[-1] - (p - start)))
        high = _unit(fading + self.noise_weight * (noise - fading)) * magnitude[..., None, start:]
        real, imaginary = torch.cat([low, high], dim=-1).unbind(-2)
        return torch.complex(real, imaginary)

    def _noise(self, low: Tensor) -> Tensor:
        """Unit phase vectors for the high bins of mid and side: [B, T, 2, start] -> [B, 2, T, 2, bins - start]."""
        angle = torch.atan2(low[..., 1, :], low[..., 0, :])
        first, second = angle[..., self.noise_sources[0]], angle[..., self.noise_sources[1]]  # [B, T, 2, bins - start]
        scrambled = (self.noise_multiplier * first + second).transpose(1, 2)
        return torch.stack([scrambled.cos(), scrambled.sin()], dim=-2)

    def _synthesise(self, spectrum: Tensor) -> Tensor:
        """Inverse STFT with a constant overlap normalisation: [B, 2, T, bins] -> [B, 2, T * fft_hop]."""
        c = self.config
        pieces = torch.fft.irfft(spectrum, dim=-1) * (self.window / HANN_SQUARED_OVERLAP)
        batch, channels, count, _ = pieces.shape
        # A window spans exactly four hops: split it into quarters, and add quarter k shifted by k hops.
        quarters = pieces.reshape(batch, channels, count, 4, c.fft_hop)
        total = torch.stack([F.pad(quarters[..., k, :], (0, 0, k, 3 - k)) for k in range(4)]).sum(0)
        pad = (c.fft_size - c.fft_hop) // 2
        return total.flatten(-2)[..., pad : pad + count * c.fft_hop]
