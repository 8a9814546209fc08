# SPDX-License-Identifier: Apache-2.0
"""The LoRAs that ship with the engine: the styles they learn, how they are trained and written, and that they load."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.loaders.lora_pipeline import AceStepLoraLoaderMixin

from engine_server.model import lora_library
from engine_server.model.dit import DitForward
from engine_server.model.lora import AdapterBank
from engine_server.model.lora_library import shipped_loras
from engine_server.session import Session
from engine_server.types import Audio
from shared_protocol.errors import DemonError

pytest.importorskip("mido", reason="needs the packages for training")

from training import chip, lofi
from training.cache_latents import Latents
from training.compose import BASS, CHORDS, COUNTER, DRUMS, KICK, MELODY, SNARE, Note, Piece, compose
from training.curves import draw, read_curve
from training.prompts import AS_IS
from training.renders import PieceInfo, Take
from training.sampler import FRAMES
from training.style_sampler import StyleSampler
from training.styles import STYLES
from training.train_lora import RANK, build_pairs, write

RATE = 48000
FILTERS_DELAY_S = 0.0003
LARGEST_FILE = 1_000_000
SPECTRUM_FLOOR_DB = -55.0  # of all that lies between the harmonics, against the whole


def piece_of(*notes):
    return Piece(list(notes), 120, "C major", 4)


def share_db(part, whole):
    return 10 * np.log10(part / whole + 1e-20)


# The chip


@pytest.mark.parametrize("duty", [0.125, 0.25, 0.5, None])
def test_the_chips_waves_do_not_alias(duty):
    frequency, samples = 2637.0, RATE
    phase = np.cumsum(np.full(samples, frequency)) / RATE % 1

    def stray(wave):
        """Energy away from the harmonics, against all."""
        power = np.abs(np.fft.rfft(wave * np.blackman(samples))) ** 2
        hz = np.fft.rfftfreq(samples, 1 / RATE)
        is_between = np.abs((hz + frequency / 2) % frequency - frequency / 2) > 20
        return share_db(power[is_between].sum(), power.sum())

    table = chip.wavetable(duty, int(chip.HIGHEST_HZ / frequency))
    assert stray(np.interp(phase * chip.TABLE, np.arange(chip.TABLE + 1), table)) < SPECTRUM_FLOOR_DB
    if duty:
        assert stray(np.where(phase < duty, 1.0, -1.0)) > SPECTRUM_FLOOR_DB + 20  # the measure tells an aliased pulse


def test_the_chips_waves_are_the_pulse_and_the_triangle_that_they_are_called():
    middle = np.arange(chip.TABLE) / chip.TABLE
    pulse = chip.wavetable(0.25, 400)[:-1]
    assert (np.abs(pulse - np.median(pulse)) < 0.2).mean() == pytest.approx(0.75, abs=0.03)
    triangle = chip.wavetable(None, 400)[:-1]
    assert np.allclose(triangle, 1 - 4 * np.abs((middle + 0.25) % 1 - 0.5), atol=0.01)


@pytest.mark.parametrize("voice", [MELODY, CHORDS, COUNTER, BASS])
def test_a_chip_note_begins_and_ends_where_it_is_written(voice):
    audio = chip.render(piece_of(Note(voice, 0.5, 0.4, 57, 100)), 2.0)
    assert audio.shape == (2 * RATE, 2)
    assert audio.dtype == np.float32
    heard = np.flatnonzero(np.abs(audio[:, 0]) > 1e-3) / RATE
    assert heard[0] == pytest.approx(0.5, abs=0.002)
    assert heard[-1] == pytest.approx(0.9, abs=0.02)
    assert 0.02 < np.abs(audio).max() < 0.6
    spectrum = np.abs(np.fft.rfft(audio[:, 0]))
    assert np.argmax(spectrum) / 2 == pytest.approx(220, abs=2)


def test_chip_drums_are_noise_and_a_falling_kick():
    kick, snare = (chip.render(piece_of(Note(DRUMS, 0.1, 0.3, pitch, 100)), 1.0)[:, 0] for pitch in (KICK, SNARE))
    for drum, is_low in ((kick, True), (snare, False)):
        power = np.abs(np.fft.rfft(drum)) ** 2
        assert (power[:300].sum() / power.sum() > 0.9) == is_low
        assert not drum[: int(0.099 * RATE)].any()
        assert not drum[int(0.4 * RATE) :].any()


def test_whole_chip_pieces_are_repeatable_and_seldom_over_full_scale():
    for seed in range(5):
        piece = compose(seed, 5.4)
        audio = chip.render(piece, 6.0)
        assert np.array_equal(audio, chip.render(piece, 6.0))
        assert 0.02 < audio.std() < 0.35
        assert (np.abs(audio) > 1).mean() < 0.01


# The record


def bursts(at_s, seconds):
    """Short tones of 700 Hz."""
    times = np.arange(round(seconds * RATE)) / RATE
    shape = sum(np.exp(-(((times - start) / 0.01) ** 2)) for start in at_s)
    return np.repeat((shape * np.sin(2 * np.pi * 700 * times))[:, None], 2, axis=1).astype(np.float32)


def test_the_record_stays_aligned_and_sways(monkeypatch):
    monkeypatch.setattr(lofi, "HISS_RMS", 0.0)
    monkeypatch.setattr(lofi, "CRACKLE_PEAK", 0.0)
    monkeypatch.setattr(lofi, "COMPRESSION", 0.0)  # which moves a burst's energy to its attack
    starts = np.arange(0.25, 5.9, 0.25)
    shifts = []
    for seed in range(3):
        worn = lofi.apply(bursts(starts, 6.0), seed, RATE)
        for start in starts:
            window = slice(round((start - 0.05) * RATE), round((start + 0.05) * RATE))
            power = worn[window].mean(1) ** 2
            shifts.append((power * np.arange(len(power))).sum() / power.sum() / RATE - 0.05)
    assert np.abs(shifts).max() < lofi.GREATEST_SHIFT_MS / 1000 + FILTERS_DELAY_S
    assert np.ptp(shifts) > 0.001


def test_the_record_is_narrow_level_and_crackles():
    rng = np.random.default_rng(1)
    white = 0.02 * rng.standard_normal((6 * RATE, 2)).astype(np.float32)
    worn = lofi.apply(white, 5, RATE)
    assert worn.shape == white.shape
    assert worn.dtype == np.float32
    assert worn.std() == pytest.approx(lofi.REFERENCE_RMS, rel=1e-3)
    assert np.array_equal(worn, lofi.apply(white, 5, RATE))
    assert not np.array_equal(worn, lofi.apply(white, 6, RATE))
    power = np.abs(np.fft.rfft(worn.mean(1))) ** 2
    hz = np.fft.rfftfreq(6 * RATE, 1 / RATE)
    low, middle, high = (power[(hz > a) & (hz < b)].mean() for a, b in ((20, 70), (400, 2500), (8000, 16000)))
    assert share_db(low, middle) < -10
    assert share_db(high, middle) < -25
    nothing = lofi.apply(np.zeros((6 * RATE, 2), np.float32), 5, RATE)[:, 0]
    assert np.abs(nothing).max() > 8 * np.median(np.abs(nothing))


# The rows


def fake_data(takes):
    """Latents that tell piece, take and frame, and the same in a style, one higher."""
    frames = FRAMES + 30
    place = torch.arange(frames) / 1000
    cells = 100.0 * torch.arange(4)[:, None, None] + 10.0 * torch.arange(3)[:, None] + place
    rendered = cells[..., None].expand(-1, -1, -1, 64).half()
    words = [Take(f"instrument{take}", (f"instrument{take}",), (), "", (0, 0, 0, 0)) for take in range(3)]
    renders = SimpleNamespace(takes=[words] * 4, pieces=[PieceInfo(p, 100 + p, "C major", 4) for p in range(4)])
    return Latents("", rendered, rendered[0, 0]), renders, (rendered[:2, :takes] + 1000).half()


def rows_of(takes, count=200):
    latents, renders, style = fake_data(takes)
    sampler = StyleSampler(latents, renders, style, torch.zeros(64))
    batch = sampler.batch(7, (FRAMES, count))
    assert torch.equal(batch.noise, sampler.batch(7, (FRAMES, count)).noise)
    for clean, source, prompt in zip(batch.clean, batch.source, batch.prompts, strict=True):
        inside = torch.nonzero(clean[:, 0])[:, 0]  # outside are the frames beyond an edge of the song
        if len(inside) > 2:
            yield clean[inside, 0] - 1000, source[inside, 0], prompt


def test_lofi_rows_make_the_take_that_the_caption_names():
    named = as_is = changed = 0
    for clean, source, prompt in rows_of(3):
        take = int(clean[0] % 100 // 10)
        if any(f"# Caption\n{caption}\n" in prompt for caption in AS_IS):
            assert torch.allclose(clean, source, atol=1.0)
            as_is += 1
        else:
            assert f"instrument{take}" in prompt.lower()
            named += 1
            changed += bool((clean - source).abs().max() > 5)
        assert clean[0] < 199  # the style has the first two pieces only
    assert 0.1 < as_is / (as_is + named) < 0.3
    assert changed > named / 2


def test_rows_of_a_style_with_an_instrument_of_its_own_override_the_caption():
    silent = 0
    for clean, source, prompt in rows_of(1):
        assert int(clean[0] % 100 // 10) == 0
        assert not re.search(r"instrument\d", prompt.lower())
        if not source.any():
            silent += 1
        else:
            assert int(source[0] // 100) == int(clean[0] // 100)
    assert 0 < silent < 30


# Training and files


def random_pairs(transformer, size=0.05):
    torch.manual_seed(3)
    pairs = build_pairs(transformer)
    with torch.no_grad():
        for up in pairs.up:
            up.normal_(0, size)
    return pairs


def forward_inputs(model, rows=2, frames=12):
    generator = torch.Generator().manual_seed(4)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    states = normal(rows, 5, model.config.encoder_hidden_size or model.config.hidden_size)
    return normal(rows, frames, 64), torch.tensor([0.3, 0.8]), normal(rows, frames, 128), states


def test_pairs_start_as_nothing_and_every_one_of_them_learns(tiny):
    model, ones = tiny.transformer, torch.ones(2, 1)
    pairs, bank = build_pairs(model), AdapterBank()
    assert len(pairs.names) == 11 * len(model.layers)
    bank.add(pairs.factors())
    forward = DitForward(model, bank)
    x, t, context, states = forward_inputs(model)
    mask = torch.ones(states.shape[:2], dtype=torch.bool)

    def velocity():
        return forward(x, t, context, forward.encode(states, mask, ones), ones)

    bare = DitForward(model)
    with torch.no_grad():
        start = velocity()
        assert torch.equal(start, bare(x, t, context, bare.encode(states, mask)))
    optimizer = torch.optim.SGD(pairs.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (velocity() - 1).square().mean().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.any() for p in pairs.parameters())
    with torch.no_grad():
        assert not torch.equal(velocity(), start)


@pytest.fixture(scope="module")
def lora(tiny, tmp_path_factory):
    return write("chip", random_pairs(tiny.transformer), tmp_path_factory.mktemp("loras"), "tiny")


def test_a_written_lora_is_read_whole_and_at_strength_zero_changes_no_bit(tiny_folder, lora):
    with Session(str(tiny_folder)) as session:
        noise = 0.1 * torch.randn(2, 2 * RATE, generator=torch.Generator().manual_seed(1))
        source, words = session.prepare_source(Audio(noise, RATE)), session.encode_text(tags="strings")

        def made():
            return session.generate(conditioning=words, source=source).frames

        bare = made()
        assert session.apply_lora(lora, scale=0.0) == "chip"
        assert torch.equal(made(), bare)
        session.set_lora_strength("chip", 1.0)
        assert not torch.equal(made(), bare)
        (entry,) = session.loras.entries()
        assert entry.rank == RANK
        assert entry.metadata["license"] == "Apache-2.0"
        expected = random_pairs(session.checkpoint.transformer).factors()
        for name, (down, up) in expected.items():
            ((_, pair),) = session.checkpoint.adapters.branches(name)
            assert torch.equal(pair[0], down.detach().half().float())
            assert torch.equal(pair[1], up.detach().half().float())


def test_diffusers_reads_a_written_lora_too(tiny, lora):
    tensors, metadata = AceStepLoraLoaderMixin.lora_state_dict(str(lora), return_lora_metadata=True)
    assert len(tensors) == 2 * 11 * len(tiny.transformer.layers)
    assert metadata["transformer.r"] == metadata["transformer.lora_alpha"] == RANK


def test_a_shipped_lora_is_found_by_its_id_unless_a_file_has_that_path(tiny_folder, lora, tmp_path, monkeypatch):
    monkeypatch.setattr(lora_library, "SHIPPED", lora.parent)
    monkeypatch.chdir(tmp_path)
    with Session(str(tiny_folder)) as session:
        for _ in range(2):
            assert session.apply_lora("chip", scale=0.5) == "chip"
            assert session.loras.entries()[0].path == lora.resolve()
            session.remove_loras()
        with pytest.raises(DemonError, match="E_LORA_FILE"):
            session.apply_lora("chop")
        (tmp_path / "chip").mkdir()
        with pytest.raises(DemonError, match="a LoRA folder holds one of"):
            session.apply_lora("chip")


# What ships


@pytest.fixture(scope="module")
def embedded():
    with Session() as session:
        yield session


def test_every_style_ships_as_a_lora_and_nothing_else_does():
    assert set(shipped_loras()) == set(STYLES)


@pytest.mark.parametrize("name", list(STYLES))
def test_a_shipped_lora_fits_the_embedded_checkpoint(embedded, name, request):
    assert shipped_loras()[name].stat().st_size < LARGEST_FILE
    request.addfinalizer(embedded.remove_loras)
    noise = 0.1 * torch.randn(2, 2 * RATE, generator=torch.Generator().manual_seed(1))
    source, words = embedded.prepare_source(Audio(noise, RATE)), embedded.encode_text(tags="strings")

    def made():
        return embedded.generate(conditioning=words, source=source).frames

    bare = made()
    assert embedded.apply_lora(name, scale=0.0) == name
    assert torch.equal(made(), bare)
    embedded.set_lora_strength(name, 1.0)
    assert (made() - bare).abs().mean() > 0.01


# Curves


def test_curves_forget_what_a_resumed_run_did_again(tmp_path):
    path = tmp_path / "codec_codec.jsonl"
    rows = [(50, 3.0), (100, 2.0), (150, 9.0), (100, 1.5), (150, 1.0)]
    path.write_text("".join(json.dumps({"step": step, "total": loss}) + "\n" for step, loss in rows))
    assert read_curve(path) == ([50, 100, 150], {"total": [3.0, 1.5, 1.0]})
    assert draw(tmp_path, tmp_path / "out" / "curves.png") == 1
    assert (tmp_path / "out" / "curves.png").stat().st_size > 1000
    with pytest.raises(FileNotFoundError):
        draw(tmp_path / "out", tmp_path / "none.png")
