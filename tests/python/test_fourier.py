# SPDX-License-Identifier: Apache-2.0
"""The codec's Fourier transforms: torch's values, and bits that depend on nothing but a row's own samples."""

from __future__ import annotations

import pytest
import torch

from engine_server.model.fourier import irfft, rfft
from engine_server.model.spectral_codec import SpectralCodec

SIZES = [960, 1920, 3840, 7680]


@pytest.mark.parametrize("size", SIZES)
def test_values_are_torchs(size):
    x = torch.randn(2, 7, size, generator=torch.Generator().manual_seed(1))
    exact = torch.fft.rfft(x.double())
    torch.testing.assert_close(rfft(x).to(torch.complex128), exact, rtol=0, atol=1e-4)
    assert rfft(x).dtype == torch.complex64
    back = irfft(rfft(x), size)
    assert back.dtype == torch.float32
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_a_rows_bits_depend_neither_on_its_neighbours_nor_on_threads(size):
    x = torch.randn(9, size, generator=torch.Generator().manual_seed(2))
    spectra, before = rfft(x), torch.get_num_threads()
    sounds = irfft(spectra, size)
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            for row in range(9):
                assert torch.equal(rfft(x[row]), spectra[row])
                assert torch.equal(irfft(spectra[row], size), sounds[row])
    finally:
        torch.set_num_threads(before)


def test_gradients_pass():
    x = torch.randn(3, 960, requires_grad=True)
    irfft(rfft(x), 960).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach(), rtol=0, atol=1e-4)


def test_inference_on_the_cpu_never_uses_mkls_transforms(monkeypatch):
    """Theirs are rounded in one of two ways from process to process, so that two bounces could differ."""

    def refuse(*_, **__):
        raise AssertionError("a transform of torch")

    for name in ("rfft", "irfft", "fft", "ifft"):
        monkeypatch.setattr(torch.fft, name, refuse)
    monkeypatch.setattr(torch, "stft", refuse)
    codec = SpectralCodec(encoder_width=16, encoder_hidden=16, decoder_width=16, decoder_hidden=16).eval()
    with torch.inference_mode():
        latents = codec.encode(torch.randn(1, 2, 8 * codec.hop))
        assert codec.decode(latents, 0).shape == (1, 2, 8 * codec.hop)
