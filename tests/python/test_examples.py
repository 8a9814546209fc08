# SPDX-License-Identifier: Apache-2.0
"""Every example runs, writes music, and its feature acts where and how the script says."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
import soundfile
import torch

from engine_server.model.lora_library import shipped_loras
from engine_server.model.windows import decode_window
from engine_server.session import Session
from engine_server.types import Latent
from examples.common import FIXTURES, SECONDS, music
from shared_protocol.timebase import FRAMES_PER_SECOND

ROOT = FIXTURES.parent
OTHERS = ("__init__", "common", "minimal_client")
NAMES = sorted(path.stem for path in (ROOT / "examples").glob("*.py") if path.stem not in OTHERS)
FRAMES = SECONDS * FRAMES_PER_SECOND
AUDIBLE_RMS = 0.01


def example(name):
    return importlib.import_module(f"examples.{name}")


@pytest.fixture(scope="module")
def loaded():
    with Session() as session:
        yield session


@pytest.fixture
def session(loaded):
    yield loaded
    loaded.remove_loras()


@pytest.fixture(scope="module")
def sources(loaded):
    """Latents `[T, C]` of the recordings that examples start from or aim at."""
    return {
        name: loaded.encode_audio(music(name)).frames for name in ("pair_piano_8s", "pair_strings_8s", "van_theme_12s")
    }


@pytest.fixture
def make(session, monkeypatch):
    """Latents of an example by name, as it is or without some of its arguments, or with others."""
    generate = session.generate

    def latents(name, *without, **changed):
        def altered(**given):
            return generate(**{key: value for key, value in given.items() if key not in without} | changed)

        monkeypatch.setattr(session, "generate", altered)
        return example(name).make(session).frames

    return latents


def distance(a, b):
    """Per frame, `[T]`."""
    return (a - b).square().mean(dim=1).sqrt()


def seconds(curve):
    """Means of a curve `[T]` over each second."""
    return curve.reshape(SECONDS, FRAMES_PER_SECOND).mean(dim=1)


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


# All of them


@pytest.mark.parametrize("name", NAMES)
def test_an_example_writes_five_seconds_of_music(name, tmp_path, capsys):
    out = tmp_path / "out.wav"
    example(name).main(["--out", str(out)])
    samples, rate = soundfile.read(out, always_2d=True)
    assert (rate, samples.shape) == (48000, (48000 * SECONDS, 2))
    assert np.isfinite(samples).all()
    loudness = np.sqrt(np.square(samples.reshape(SECONDS, -1)).mean(axis=1))
    assert (loudness > AUDIBLE_RMS).all(), "a second of it is silent"
    assert np.abs(samples).max() < 2.0
    assert str(out) in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["out.wav"]


def test_an_example_runs_as_its_readme_says(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "examples.cover_basic"],
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PATH": ""},
    )
    assert soundfile.info(tmp_path / "cover_basic.wav").frames == 48000 * SECONDS


def test_the_readme_lists_every_example():
    text = (ROOT / "examples" / "README.md").read_text()
    assert [name for name in NAMES if f"`python -m examples.{name}" not in text] == []


# What each of them does


def chroma(latents, session):
    """How much of each of the 12 notes sounds from moment to moment, `[12, n]`, centred."""
    audio = session.decode_full(Latent(latents)).waveform.mean(dim=0)
    size = 8192
    spectrum = torch.stft(audio, size, hop_length=2048, window=torch.hann_window(size), return_complex=True).abs()
    pitch = 12 * torch.log2(torch.arange(1, size // 2 + 1) * session.sample_rate / size / 440.0)
    notes = torch.zeros(12, spectrum.shape[1])
    heard = (pitch > -30) & (pitch < 24)
    notes.index_add_(0, pitch[heard].round().long() % 12, spectrum[1:][heard])
    return notes / notes.sum(dim=0) - 1 / 12


def test_a_cover_keeps_the_notes_and_changes_the_sound(session, make, sources):
    cover = make("cover_basic")
    ours, theirs = chroma(cover, session), chroma(sources["pair_piano_8s"], session)
    transposed = [correlation(ours.roll(steps, dims=0).flatten(), theirs.flatten()) for steps in range(12)]
    later = [correlation(ours.roll(steps, dims=1).flatten(), theirs.flatten()) for steps in range(0, 100, 12)]
    assert transposed[0] > 0.3
    assert transposed[0] > 2 * max(transposed[1:])
    assert later[0] == max(later)
    other = make("cover_basic", conditioning=session.encode_text(tags="music box"))
    assert (seconds(distance(cover, other)) > 0.1).all()


def test_less_denoise_is_nearer_to_the_source(make, sources):
    distances = [
        distance(make("cover_basic", denoise=denoise), sources["pair_piano_8s"]).mean() for denoise in (0.3, 0.6, 0.9)
    ]
    assert distances == sorted(distances)
    assert distances[0] < 0.5 * distances[-1]


def test_a_prompt_blend_goes_from_one_prompts_piece_to_the_others(session, make):
    blended = make("prompt_blend")
    first, second = (
        make("prompt_blend", conditioning=session.encode_text(tags=tags)) for tags in ("music box", "church organ")
    )
    to_first, to_second = seconds(distance(blended, first)), seconds(distance(blended, second))
    assert to_first[0] < 0.5 * to_second[0]
    assert to_second[-1] < 0.5 * to_first[-1]


def test_an_averaged_condition_gives_a_piece_between_those_of_both(session, make):
    average = make("conditioning_average")
    first, second = (
        make("conditioning_average", conditioning=session.encode_text(tags=tags)) for tags in ("piano", "strings")
    )
    apart = distance(first, second)
    assert (seconds(distance(average, first)) < seconds(apart)).all()
    assert (seconds(distance(average, second)) < seconds(apart)).all()


def test_blended_hints_go_from_one_piece_to_the_other(session, make):
    blended = make("cover_semantic_blend")
    ours, theirs = (
        make("cover_semantic_blend", context_latent=session.prepare_source(music(name)).context_latent)
        for name in ("pair_piano_8s", "van_theme_12s")
    )
    to_ours, to_theirs = seconds(distance(blended, ours)), seconds(distance(blended, theirs))
    assert to_ours[0] < 0.6 * to_theirs[0]
    assert to_theirs[-1] < 0.6 * to_ours[-1]


def test_an_sde_curve_holds_the_start_to_the_source_and_frees_the_end(make, sources):
    held = seconds(distance(make("sde_denoise_curve"), sources["pair_piano_8s"]))
    free = seconds(distance(make("sde_denoise_curve", "sde_denoise_curve", method="sde"), sources["pair_piano_8s"]))
    assert held[0] < 0.2 * free[0]
    assert held[-1] > 0.7 * free[-1]


def test_less_initial_noise_keeps_the_start_near_the_source(make, sources):
    curved, plain = make("initial_noise_curve"), make("initial_noise_curve", "initial_noise_curve")
    to_source = seconds(distance(curved, sources["pair_piano_8s"]))
    assert to_source[0] < 0.7 * seconds(distance(plain, sources["pair_piano_8s"]))[0]
    assert to_source[-1] > 2 * to_source[0]


def test_a_mask_keeps_preserved_frames_and_their_sound_exactly(session, make, sources):
    first, stop = example("latent_noise_mask").FIRST, example("latent_noise_mask").STOP
    made, source = make("latent_noise_mask"), sources["pair_piano_8s"]
    assert torch.equal(made[:first], source[:first])
    assert torch.equal(made[stop:], source[stop:])
    assert (distance(made, source)[first:stop] > 0.1).all()
    margin = session.checkpoint.codec.decoder_margin
    spans = ((0, first - margin), (stop + margin, FRAMES - stop - margin))
    for begin, count in spans:
        sound, roundtrip = (decode_window(session.checkpoint.codec, each, begin, count) for each in (made, source))
        assert torch.equal(sound, roundtrip)


def test_an_x0_target_pulls_the_end_towards_it(make, sources):
    target = sources["pair_strings_8s"]
    pulled, free = (
        distance(make("x0_target_blend"), target),
        distance(make("x0_target_blend", "x0_target_curve"), target),
    )
    ratio = seconds(pulled) / seconds(free)
    assert (ratio.diff() < 0).all(), "the pull grows over the piece"
    assert ratio[-1] < 0.25


def test_a_reference_pulls_all_frames_alike(make, sources):
    target = sources["van_theme_12s"]
    pulled = seconds(distance(make("x0_target_from_reference"), target))
    free = seconds(distance(make("x0_target_from_reference", "x0_target_strength"), target))
    assert (pulled < 0.8 * free).all()
    assert (pulled > 0.1 * free).all(), "the piece itself is still there"


def test_scaled_velocity_changes_the_frames_where_it_is_not_1(make):
    change = seconds(distance(make("velocity_scaling"), make("velocity_scaling", "velocity_scale")))
    assert (change[:2] < 0.1 * change[-1]).all()
    assert (change[2:].diff() > 0).all()


def test_guidance_acts_by_its_curve(make):
    change = distance(make("guidance_curve"), make("guidance_curve", "guidance_curve"))
    assert correlation(change, torch.linspace(0, 1, FRAMES)) > 0.8
    assert seconds(change)[-1] > 0.05


def test_injected_noise_acts_by_its_curve(make):
    change = distance(make("ode_noise_injection"), make("ode_noise_injection", "ode_noise_curve"))
    assert correlation(change, example("ode_noise_injection").TREMOR) > 0.8


def test_a_lora_is_heard_until_it_is_taken_out(session, make):
    under_lora = make("lora_generation")
    session.set_lora_strength(session.loras.entries()[0].id, 0.0)
    plain = session.generate(
        conditioning=session.encode_text(tags="strings"),
        source=session.prepare_source(music("pair_piano_8s")),
        denoise=0.9,
        seed=7,
    ).frames
    assert (seconds(distance(under_lora, plain)) > 0.05).all()
    session.remove_loras()
    assert torch.equal(make("cover_basic"), plain), "the same arguments without a LoRA"


def test_each_lora_that_comes_with_the_model_is_a_sound_of_its_own(session):
    sounds = {}
    for lora in sorted(shipped_loras()):
        sounds[lora] = example("lora_generation").make(session, lora).frames
        session.remove_loras()
    assert list(sounds) == ["chip", "choir", "lofi"]
    for one, other in combinations(sounds, 2):
        assert (seconds(distance(sounds[one], sounds[other])) > 0.05).all(), (one, other)


def test_a_lora_of_the_users_own_is_taken(tmp_path):
    path = shutil.copy(shipped_loras()["chip"], tmp_path / "mine.safetensors")
    out = tmp_path / "mine.wav"
    example("lora_generation").main(["--lora", str(path), "--strength", "0.5", "--out", str(out)])
    assert out.is_file()


def test_examples_say_what_they_take(capsys):
    with pytest.raises(SystemExit) as done:
        example("lora_generation").main(["--help"])
    assert done.value.code == 0
    assert "--lora" in (text := capsys.readouterr().out)
    assert "lofi, choir and chip" in text
