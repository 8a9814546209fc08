# SPDX-License-Identifier: Apache-2.0
"""From one stage of training to the next: resumed runs, what a state belongs to, the rows, the teacher, the export."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine_server.model import windows
from engine_server.model.checkpoint import load_checkpoint
from engine_server.model.conditioning import Conditioner
from engine_server.model.dit import DitForward
from engine_server.model.prompts import NO_METAS, TASK_INSTRUCTIONS, Metas, format_prompt
from engine_server.model.spectral_codec import SpectralCodec

pytest.importorskip("mido", reason="needs the packages for training")

from training import adopt, export, modules, sampler, store, styles, train_codec, train_dit, train_lora
from training.build_data import plan_takes
from training.cache_latents import (
    Latents,
    cache,
    encode_recordings,
    encoder_hash,
    latents_identity,
    load_codec,
    load_latents,
    raw_latents,
)
from training.conditions import encode_conditions
from training.loop import Ema, Plan, run
from training.prompts import build_tokenizer
from training.renders import PieceInfo, Renders, Take, write_info
from training.sampler import AS_IS_SHARE, EDGE_SHARE, NULL_SHARE, PairSampler
from training.sizes import SIZES
from training.store import hash_tensors, save_atomically, state_path

SIZE = "small"
HOP = SpectralCodec.hop
PIECES, TAKES, PIECE_FRAMES, RECORDED_FRAMES = 3, 2, 70, 95
FRAMES = 40


# The loop


def regression(plan):
    """Run a plan on a tiny module whose batch is a function of its step."""
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU(), torch.nn.Linear(4, 1))

    def losses_of(step):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        return {"total": (module(x) - x.sum(1, keepdim=True)).square().mean()}

    return run(plan, module, losses_of)


def test_six_steps_equal_three_and_three(tmp_path):
    whole, done = regression(Plan(tmp_path / "new" / "whole.pt", 6, 1e-2))
    assert done == 6
    parts = tmp_path / "new" / "parts.pt"
    assert regression(Plan(parts, 6, 1e-2, stop_after=0))[1] == 0
    assert not parts.exists()
    assert [regression(Plan(parts, 6, 1e-2, stop_after=3))[1] for _ in range(2)] == [3, 6]
    resumed, done = regression(Plan(parts, 6, 1e-2))
    assert done == 6
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    saved = [torch.load(tmp_path / "new" / f"{name}.pt") for name in ("whole", "parts")]
    assert hash_tensors(saved[0]["model"]) == hash_tensors(saved[1]["model"]) != hash_tensors(whole)


def test_a_state_of_another_identity_is_refused_and_kept(tmp_path):
    path = tmp_path / "state.pt"
    regression(Plan(path, 2, 1e-2, identity="one"))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="made from one, not from two: move it away"):
        regression(Plan(path, 4, 1e-2, identity="two"))
    assert path.read_bytes() == before


@pytest.mark.parametrize(("steps", "learning_rate"), [(6, 1e-2), (4, 5e-3)])
def test_a_resumed_run_must_repeat_its_schedule(tmp_path, steps, learning_rate):
    path = tmp_path / "state.pt"
    regression(Plan(path, 4, 1e-2, stop_after=2))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"planned with 4 steps at a learning rate of 0\.01, not .*repeat those"):
        regression(Plan(path, steps, learning_rate))
    assert path.read_bytes() == before
    assert regression(Plan(path, 4, 1e-2))[1] == 4


def test_a_crash_while_saving_leaves_the_old_state(tmp_path, monkeypatch):
    path = state_path(tmp_path, SIZE, "state")
    assert not path.parent.exists()
    save_atomically({"step": 1}, path)

    def crash(state, target):
        target.write_bytes(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(store.torch, "save", crash)
    with pytest.raises(KeyboardInterrupt):
        save_atomically({"step": 2}, path)
    assert torch.load(path) == {"step": 1}


def test_averaging_equal_weights_leaves_their_hash():
    """Weights that were rounded to float16 have negative zeros, which an average turns into zeros."""
    module = torch.nn.Linear(2, 1)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[-0.0, 0.5]]))
    before = hash_tensors(module.state_dict())
    ema = Ema(module, 0.9)
    ema.update(module)
    assert hash_tensors(ema.state) == before
    assert hash_tensors({"x": torch.tensor([1.0])}) != hash_tensors({"x": torch.tensor([-1.0])})


# The rows


SILENCE = torch.full((64,), -7.0)
ROWS_FRAMES = 60
"""Of each piece in `rows`."""


@pytest.fixture(scope="module")
def rows():
    """Many rows, of latents that tell piece, take and frame."""
    place = torch.arange(ROWS_FRAMES) / 100
    cells = 100.0 * torch.arange(1, 5)[:, None, None] + 10.0 * torch.arange(3)[:, None] + place
    rendered = cells[..., None].expand(-1, -1, -1, 64)
    words = [Take(f"instrument{take}", (f"instrument{take}",), (), "", (0, 0, 0, 0)) for take in range(3)]
    renders = SimpleNamespace(takes=[words] * 4, pieces=[PieceInfo(p, 100 + p, "C major", 4) for p in range(4)])
    pairs = PairSampler(Latents("", rendered, -rendered[0, 0]), renders, range(3), SILENCE)
    batch, again = (pairs.batch(5, (FRAMES, 1500)) for _ in range(2))
    for name in ("clean", "source", "mask", "is_null", "t", "noise"):
        assert torch.equal(getattr(batch, name), getattr(again, name))
    assert batch.prompts == again.prompts
    assert not torch.equal(batch.noise, pairs.batch(6, (FRAMES, 1500)).noise)
    return batch


def of_task(batch, task):
    """Clean, source, mask and prompt of a task's rows, as numbers per frame."""
    for clean, source, mask, prompt in zip(batch.clean, batch.source, batch.mask, batch.prompts, strict=True):
        if TASK_INSTRUCTIONS[task] in prompt:
            yield clean[:, 0], source[:, 0], mask[:, 0], prompt


def test_rows_have_their_shapes_and_shares(rows):
    assert rows.clean.shape == rows.source.shape == rows.noise.shape == (1500, FRAMES, 64)
    assert rows.mask.shape == (1500, FRAMES, 1)
    assert rows.is_null.shape == rows.t.shape == (1500,)
    assert float(rows.is_null.float().mean()) == pytest.approx(NULL_SHARE, abs=0.03)
    assert 0 < float(rows.t.min()) < 0.2 < 0.9 < float(rows.t.max()) < 1
    counts = {task: len(list(of_task(rows, task))) for task in ("cover", "text2music", "repaint")}
    assert sum(counts.values()) == 1500
    assert counts["text2music"] / 1500 == pytest.approx(sampler.NO_SOURCE_SHARE, abs=0.02)
    assert counts["repaint"] / 1500 == pytest.approx(sampler.REPAINT_SHARE, abs=0.02)


def test_a_cover_hears_another_take_of_the_same_frames_and_names_its_own(rows):
    same = as_is = other = 0
    for clean, source, mask, prompt in of_task(rows, "cover"):
        assert mask.all()
        inside = clean != SILENCE[0]
        assert torch.equal(inside, source != SILENCE[0])
        if not re.search(r"instrument\d", prompt.lower()):
            assert torch.equal(clean, source)
            as_is += 1
            continue
        clean, source = clean[inside], source[inside]
        if not len(clean):
            continue
        piece, take = divmod(int(clean[0]), 100)
        assert piece in (1, 2, 3)  # the fourth is held out
        assert f"instrument{take // 10}" in prompt.lower()
        assert torch.allclose(source % 10, clean % 10, atol=1e-4)
        assert int(source[0]) // 100 == piece
        same += torch.equal(source, clean)
        other += not torch.equal(source, clean)
    assert as_is / 1500 == pytest.approx(AS_IS_SHARE, abs=0.03)
    assert same / (same + other) == pytest.approx(sampler.SAME_TAKE_SHARE, abs=0.03)


def test_rows_without_a_source_hear_silence(rows):
    assert all((source == SILENCE[0]).all() and mask.all() for _, source, mask, _ in of_task(rows, "text2music"))


def test_a_repaint_hears_the_target_where_the_mask_is_zero(rows):
    shares = []
    for clean, source, mask, _ in of_task(rows, "repaint"):
        assert set(mask.tolist()) <= {0.0, 1.0}
        assert (mask.diff() != 0).sum() <= 2  # one span
        assert torch.equal(source[mask == 0], clean[mask == 0])
        assert (source[mask == 1] == SILENCE[0]).all()
        shares.append(float(mask.mean()))
    assert 0 < min(shares) < 0.6 < max(shares) <= 1


def test_some_rows_begin_before_the_song_or_end_after_it(rows):
    before = after = 0
    for clean in rows.clean[..., 0]:
        outside = clean == SILENCE[0]
        assert outside.diff().sum() <= 1
        before += bool(outside[0])
        after += bool(outside[-1])
    assert before / 1500 == pytest.approx(EDGE_SHARE / 2, abs=0.02)
    assert after / 1500 == pytest.approx(EDGE_SHARE / 2, abs=0.02)


# Data, codec and modules of the small size, untrained


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work folder with every state that a finished chain has, of random weights and noise."""
    work = tmp_path_factory.mktemp("work")
    rng = np.random.default_rng(0)
    seeds = range(PIECES)
    noise = rng.normal(0, 2000, (PIECES, TAKES, PIECE_FRAMES * HOP, 2)).astype(np.int16)
    np.save(work / "renders.npy", noise)
    infos = [PieceInfo(seed, 100, "A minor", 4) for seed in seeds]
    write_info(work / "renders.json", infos, [plan_takes(seed, TAKES) for seed in seeds], 1)
    np.save(work / "recordings.npy", rng.normal(0, 2000, (RECORDED_FRAMES * HOP + 500, 2)).astype(np.int16))
    (work / "recordings.json").write_text("[]")
    torch.manual_seed(2)
    codec = SpectralCodec(**SIZES[SIZE].codec).eval()
    for stage in ("codec", "decoder"):
        save_atomically({"ema": codec.state_dict(), "identity": ""}, state_path(work, SIZE, f"codec_{stage}"))
    cache(codec, work, SIZE)
    return work


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def small(trained, tokenizer, monkeypatch):
    """The codec with the latents' statistics, the latents, and fresh modules."""
    monkeypatch.setattr(modules, "build_tokenizer", lambda: tokenizer)
    codec = load_codec(trained, SIZE, "codec")
    latents = load_latents(codec, trained, SIZE)
    torch.manual_seed(3)
    fresh = modules.build_diffusion_modules(modules.encode_silence(codec), SIZES[SIZE])
    fresh.trained.eval()
    return SimpleNamespace(codec=codec, latents=latents, modules=fresh)


def save_flow(work, fresh, identity):
    save_atomically({"ema": fresh.trained.state_dict(), "identity": identity}, state_path(work, SIZE, "dit_flow"))


@pytest.fixture
def work(trained, small, tmp_path):
    """A folder of its own with the same data and states, and a flow."""
    for path in trained.glob("*.*"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / SIZE).mkdir()
    for path in (trained / SIZE).glob("*.pt"):
        (tmp_path / SIZE / path.name).symlink_to(path)
    save_flow(tmp_path, small.modules, small.latents.identity)
    return tmp_path


def describe_otherwise(work):
    """As if the recordings were others."""
    (work / "recordings.json").unlink()  # a link to the others' description
    (work / "recordings.json").write_text('["another"]')


def options(work, **others):
    return Namespace(**{"work": work, "size": SIZE, "steps": 2, "stop_after": 1, "learning_rate": None} | others)


# The cache


def test_the_cache_keeps_every_whole_frame_of_a_recording(trained, small, monkeypatch):
    recordings = np.load(trained / "recordings.npy")
    codec = load_codec(trained, SIZE, "codec")
    audio = torch.from_numpy(recordings[: RECORDED_FRAMES * HOP].astype(np.float32)).T[None] / 32768
    whole = raw_latents(codec, audio)[0]
    assert small.latents.recorded.shape == (RECORDED_FRAMES, 64)
    assert small.latents.rendered.shape == (PIECES, TAKES, PIECE_FRAMES, 64)
    kept = small.latents.recorded.float() * small.codec.latent_std + small.codec.latent_mean
    assert torch.allclose(kept, whole, atol=2e-2 * float(whole.std()))
    monkeypatch.setattr(windows, "LONGEST_SPAN", 2 * codec.encoder_margin + 30)
    assert torch.allclose(encode_recordings(codec, recordings), whole, atol=1e-4 * float(whole.std()))
    assert len(encode_recordings(codec, recordings[: 3 * HOP])) == 3


def test_a_cache_that_fits_is_kept_and_another_encoders_is_not(work, small, capsys):
    path = state_path(work, SIZE, "latents")
    before = path.read_bytes()
    cache(load_codec(work, SIZE, "codec"), work, SIZE)
    assert "already holds 3 pieces" in capsys.readouterr().out
    assert path.read_bytes() == before
    codec = load_codec(work, SIZE, "codec")
    cache(codec, work, SIZE, 2)
    assert len(load_latents(codec, work, SIZE).rendered) == 2
    with torch.no_grad():
        codec.encoder_out.bias += 1
    with pytest.raises(ValueError, match="another encoder"):
        load_latents(codec, work, SIZE)
    cache(codec, work, SIZE, 2)
    assert load_latents(codec, work, SIZE).identity == latents_identity(codec) != small.latents.identity


def test_a_cache_of_other_data_is_refused_and_made_again(work, capsys):
    codec = load_codec(work, SIZE, "codec")
    describe_otherwise(work)
    with pytest.raises(ValueError, match="made of other data"):
        load_latents(codec, work, SIZE)
    cache(codec, work, SIZE)
    assert "already holds" not in capsys.readouterr().out
    assert len(load_latents(codec, work, SIZE).rendered) == PIECES


def test_what_was_trained_on_latents_of_other_statistics_is_refused(work, small):
    codec = load_codec(work, SIZE, "codec")
    path = state_path(work, SIZE, "latents")
    state = torch.load(path)
    path.unlink()  # a link to the others' cache
    save_atomically(
        state | {"std": 2 * state["std"], "rendered": state["rendered"] / 2, "recorded": state["recorded"] / 2}, path
    )
    identity = load_latents(codec, work, SIZE).identity
    assert encoder_hash(codec) == encoder_hash(small.codec)
    assert identity == latents_identity(codec) != small.latents.identity
    with pytest.raises(ValueError, match="trained on other latents"):
        train_dit.load_diffusion(small.modules, work, SIZE, "flow", identity)


# What is held out


@pytest.fixture
def poisoned(work):
    """The work folder with noise at full scale in the place of the held-out piece's audio, and NaN in its latents."""
    audio = np.load(work / "renders.npy")
    audio[-1] = 32767 * np.sign(audio[-1])
    (work / "renders.npy").unlink()  # a link to the others' renders
    np.save(work / "renders.npy", audio)
    path = state_path(work, SIZE, "latents")
    state = torch.load(path)
    state["rendered"][-1] = torch.nan
    path.unlink()
    save_atomically(state, path)
    return work


def test_the_codec_never_hears_held_out_pieces(trained, poisoned):
    clean, other = (train_codec.Excerpts(folder, 20 * HOP) for folder in (trained, poisoned))
    for step in range(20):
        assert torch.equal(clean.batch(step), other.batch(step))


def test_the_latents_statistics_know_nothing_of_held_out_pieces(trained, poisoned):
    state_path(poisoned, SIZE, "latents").unlink()
    cache(load_codec(poisoned, SIZE, "codec"), poisoned, SIZE)
    clean, other = (torch.load(state_path(folder, SIZE, "latents")) for folder in (trained, poisoned))
    for name in ("mean", "std", "recorded"):
        assert torch.equal(clean[name], other[name])
    assert torch.equal(clean["rendered"][:-1], other["rendered"][:-1])
    assert not torch.equal(clean["rendered"][-1], other["rendered"][-1])


def test_the_flow_never_sees_held_out_pieces(poisoned, monkeypatch, few_rows):
    drawn_by = []

    def sampler_of(*arguments):
        drawn_by.append(PairSampler(*arguments))
        return drawn_by[0]

    monkeypatch.setattr(train_dit, "PairSampler", sampler_of)
    state_path(poisoned, SIZE, "dit_flow").unlink()
    train_dit.train("flow", options(poisoned, stop_after=0))
    batch = drawn_by[0].batch(0, (FRAMES, 400))
    assert batch.clean.isfinite().all()
    assert batch.source.isfinite().all()


def test_styles_are_made_of_training_pieces_only(poisoned, small, monkeypatch):
    rendered = []

    def style(renders, pieces):
        for piece in pieces:
            rendered.append(piece)
            yield renders.audio[piece].astype(np.float32) / 32768

    monkeypatch.setitem(styles.STYLES, "lofi", style)
    arguments = ["lofi", "--pieces", "99", "--size", SIZE, "--work", str(poisoned)]
    monkeypatch.setattr(sys, "argv", ["styles", *arguments])
    styles.main()
    assert rendered == list(range(PIECES - 1))
    made = styles.load_style("lofi", poisoned, SIZE, small.latents.identity)
    assert (made.float() - small.latents.rendered[:-1].float()).abs().max() < 0.02
    with pytest.raises(ValueError, match="goes with other latents"):
        styles.load_style("lofi", poisoned, SIZE, "another")


# Conditions and the teacher


def test_conditions_of_a_batch_equal_the_engines(small):
    asked = [
        ("church organ in a hall", "cover", Metas(bpm=97, key="Eb major", meter=3)),
        ("as is", "cover", NO_METAS),
        ("dark piano", "text2music", Metas(bpm=120)),
    ]
    prompts = [format_prompt(caption, TASK_INSTRUCTIONS[task], metas) for caption, task, metas in asked]
    parts = small.modules
    conditioner = Conditioner(parts.tokenizer, parts.text_encoder, parts.condition_encoder, condition_tokens=96)
    with torch.no_grad():
        states, mask = encode_conditions(parts, prompts)
    for row, (caption, task, metas) in enumerate(asked):
        expected = conditioner.encode(caption, task=task, metas=metas)
        found = states[row, mask[row]]
        assert found.shape == expected.states[0].shape
        assert torch.allclose(found, expected.states[0], atol=1e-5)
    assert not mask.all()


def test_the_teacher_says_what_guidance_would(small):
    batch = sampler.Batch(
        *(torch.randn(3, FRAMES, 64) for _ in range(2)),
        torch.ones(3, FRAMES, 1),
        ["solo piano", "as is", "strings in a hall"],
        torch.tensor([False, True, False]),
        torch.tensor([0.2, 0.5, 0.9]),
        torch.randn(3, FRAMES, 64),
    )
    teacher, identical = train_dit.Teacher(small.modules, 2.0), train_dit.Teacher(small.modules, 1.0)
    forward = DitForward(small.modules.transformer)
    noisy, context = train_dit.noisy_input(batch)
    assert torch.equal(noisy[0], 0.8 * batch.clean[0] + 0.2 * batch.noise[0])
    assert torch.equal(context[..., :64], batch.source)

    @torch.no_grad()
    def student(is_null):
        states, mask = train_dit.told_conditions(small.modules, replace(batch, is_null=is_null))
        return forward(noisy, batch.t, context, forward.encode(states, mask))

    told, untold = student(torch.zeros(3, dtype=torch.bool)), student(torch.ones(3, dtype=torch.bool))
    assert (told - untold).abs().amax(dim=(1, 2)).min() > 1e-4
    rows, guided = (0, 2), teacher.velocity(batch)
    assert torch.allclose(guided[1], untold[1], atol=1e-6), "a row without a prompt has nothing to be guided to"
    for row in rows:
        v, away = told[row].flatten(), (told - untold)[row].flatten()
        aside = away - v * (away @ v) / (v @ v)
        expected = (v + aside) * v.norm() / (v + aside).norm()
        assert torch.allclose(guided[row].flatten(), expected, atol=1e-5)
        assert torch.allclose(identical.velocity(batch)[row], told[row], atol=1e-5)
    with torch.no_grad():
        small.modules.transformer.proj_out_conv.bias += 1
    assert torch.equal(teacher.velocity(batch), guided)  # it is a copy


# What a state belongs to


@pytest.fixture
def few_rows(monkeypatch):
    monkeypatch.setattr(sampler, "SHAPES", ((FRAMES, 2),) * 3)


def test_the_finish_belongs_to_its_flow(work, small, few_rows):
    latents = small.latents.identity
    train_dit.train("finish", options(work))
    flow = f"{latents} {hash_tensors(small.modules.trained.state_dict())}"
    assert torch.load(state_path(work, SIZE, "dit_finish"))["identity"] == flow
    train_dit.train("finish", options(work))
    assert torch.load(state_path(work, SIZE, "dit_finish"))["step"] == 2
    base = train_lora.load_base(work, SIZE, "finish")
    assert base.identity.split()[0] == latents
    assert base.identity != flow
    with torch.no_grad():
        small.modules.transformer.proj_out_conv.bias += 1
    save_flow(work, small.modules, latents)
    with pytest.raises(ValueError, match=f"made from {flow}, not from {latents} .*: move it away"):
        train_dit.train("finish", options(work))
    save_flow(work, small.modules, "0123456789abcdef")
    with pytest.raises(ValueError, match="trained on other latents"):
        train_dit.train("finish", options(work))
    with pytest.raises(ValueError, match="move it away"):
        train_dit.train("flow", options(work))


def test_the_decoder_belongs_to_its_encoder_and_the_codec_to_its_data(work, monkeypatch):
    monkeypatch.setattr(train_codec, "BATCH", 1)
    monkeypatch.setattr(train_codec, "STATISTICS_STEPS", range(1))
    decoder, codec = (state_path(work, SIZE, f"codec_{stage}") for stage in ("decoder", "codec"))
    decoder.unlink()
    train_codec.train("decoder", options(work))
    start = load_codec(work, SIZE, "codec")
    assert torch.load(decoder)["identity"] == encoder_hash(start) == encoder_hash(load_codec(work, SIZE, "decoder"))
    codec.unlink()
    train_codec.train("codec", options(work))
    assert torch.load(codec)["identity"] == train_codec.data_hash(work)
    with pytest.raises(ValueError, match=f"made from {encoder_hash(start)}, not from"):
        train_codec.train("decoder", options(work))
    describe_otherwise(work)
    with pytest.raises(ValueError, match="move it away"):
        train_codec.train("codec", options(work))


# The export


def export_into(target, work, monkeypatch, *others):
    arguments = ["--codec", "codec", "--dit", "flow", "--size", SIZE, "--work", str(work), "--target", str(target)]
    monkeypatch.setattr(sys, "argv", ["export", *arguments, *others])
    export.main()


def test_an_exported_checkpoint_loads_and_takes_the_old_ones_place(work, small, tmp_path, monkeypatch):
    target = tmp_path / "shipped"
    (target / "transformer").mkdir(parents=True)
    (target / "transformer" / "old-shard.safetensors").touch()
    (target / "MODEL_CARD.md").write_text("kept")
    export_into(target, work, monkeypatch)
    parts = {"vae", "transformer", "condition_encoder", "text_encoder", "tokenizer", "scheduler"}
    assert {path.name for path in target.iterdir()} == parts | {"demon.json", "model_index.json", "MODEL_CARD.md"}
    assert (target / "MODEL_CARD.md").read_text() == "kept"
    files = list(target.rglob("*.safetensors"))
    assert len(files) == 4
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in files)
    weights = load_file(target / "transformer" / "diffusion_pytorch_model.safetensors")
    for name, tensor in small.modules.transformer.state_dict().items():
        assert torch.equal(weights[name], tensor.half())
    loaded = load_checkpoint(str(target))
    assert loaded.model_version == SIZE
    assert torch.allclose(loaded.silence, modules.encode_silence(small.codec), atol=1e-2)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_training_goes_on_from_an_exported_checkpoint(work, small, tmp_path, monkeypatch, few_rows):
    export_into(tmp_path / "shipped", work, monkeypatch)
    sitting = tmp_path / "sitting"
    sitting.mkdir()
    for name in ("renders.npy", "renders.json", "recordings.npy", "recordings.json"):
        (sitting / name).symlink_to(work / name)
    adopt.adopt(tmp_path / "shipped", sitting, SIZE)
    codec = load_codec(sitting, SIZE, "codec")
    cache(codec, sitting, SIZE)
    latents = load_latents(codec, sitting, SIZE)
    assert torch.equal(codec.latent_mean, small.codec.latent_mean.half().float())
    assert torch.equal(codec.latent_std, small.codec.latent_std.half().float())
    before, after = small.latents.rendered.float(), latents.rendered.float()
    assert (after - before).norm() < 0.01 * before.norm()  # the encoder is rounded
    train_dit.train("flow", options(sitting, learning_rate=0.0))
    start, flow = (torch.load(state_path(sitting, SIZE, f"dit_{stage}")) for stage in ("start", "flow"))
    assert flow["identity"] == f"{latents.identity} {hash_tensors(start['ema'])}"
    fresh = small.modules.trained.state_dict()
    assert flow["model"].keys() == fresh.keys()
    assert all(torch.equal(flow["model"][name], fresh[name].half().float()) for name in fresh)
    before = state_path(sitting, SIZE, "codec_codec").read_bytes()
    with pytest.raises(FileExistsError, match="move it away"):
        adopt.adopt(tmp_path / "shipped", sitting, SIZE)
    assert state_path(sitting, SIZE, "codec_codec").read_bytes() == before


@pytest.mark.parametrize(
    ("size", "file", "match"),
    [
        ("embedded", None, "vae of .* is not that of the size embedded"),
        (SIZE, "vae", "vae of"),
        (SIZE, "transformer", "transformer of"),
        (SIZE, "tokenizer", "another tokenizer"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_not_adopted(work, tmp_path, monkeypatch, size, file, match):
    shipped = tmp_path / "shipped"
    export_into(shipped, work, monkeypatch)
    if file == "tokenizer":
        path = shipped / file / "tokenizer.json"
        told = json.loads(path.read_text())
        told["model"]["merges"][-1], told["model"]["merges"][-2] = told["model"]["merges"][-2:]
        path.write_text(json.dumps(told))
    elif file:
        path = shipped / file / "diffusion_pytorch_model.safetensors"
        weights = load_file(path)
        weights.popitem()
        save_file(weights, path)
    with pytest.raises(ValueError, match=match):
        adopt.adopt(shipped, tmp_path / "sitting", size)
    assert not (tmp_path / "sitting").exists()


def test_a_missing_stage_or_too_large_a_checkpoint_leaves_the_target_alone(work, tmp_path, monkeypatch):
    target = tmp_path / "shipped"
    target.mkdir()
    (target / "demon.json").write_text("old")
    with pytest.raises(FileNotFoundError, match=r"dit_finish.pt is missing: run training.train_dit finish first"):
        export_into(target, work, monkeypatch, "--dit", "finish")
    monkeypatch.setattr(export, "SIZE_LIMIT_MB", 0.1)
    with pytest.raises(ValueError, match=r"more than 0\.1"):
        export_into(target, work, monkeypatch)
    assert [path.name for path in target.iterdir()] == ["demon.json"]
    assert (target / "demon.json").read_text() == "old"
    monkeypatch.undo()


def test_untrained_diffusion_weights_are_exported_only_on_request(work, small, tmp_path, monkeypatch):
    export_into(tmp_path / "new" / "random", work, monkeypatch, "--dit", "finish", "--untrained")
    assert load_checkpoint(str(tmp_path / "new" / "random")).model_version == SIZE


def test_a_renders_description_names_its_plan(trained, tmp_path):
    before = train_codec.data_hash(trained)
    renders = Renders(trained)
    (tmp_path / "recordings.json").write_text("[]")
    for plan, is_same in (("", True), ("other notes", False)):
        write_info(tmp_path / "renders.json", renders.pieces, renders.takes, 1, plan)
        assert (train_codec.data_hash(tmp_path) == before) == is_same
