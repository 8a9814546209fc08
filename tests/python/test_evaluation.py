# SPDX-License-Identifier: Apache-2.0
"""The evaluation as a whole, on a tiny checkpoint and made-up music; and as the command that a user meets."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from evaluation_rig import Deaf, MadeUp
from safetensors.torch import save_file
from typer.testing import CliRunner

from engine_server import cli
from engine_server.model.lora import linear_shapes

pytest.importorskip("mido", reason="needs the packages for training")

from engine_server.session import Session
from training.build_data import EVALUATION_SOUNDFONT
from training.evaluation import listening, run
from training.evaluation.generate import Wish, generate
from training.evaluation.parts import covers
from training.evaluation.report import PartResult
from training.evaluation.requirements import PARTS
from training.evaluation.run import measure
from training.evaluation.subject import Effort, Subject
from training.evaluation.targets import TARGETS

has_note_model = find_spec("basic_pitch") is not None and find_spec("onnxruntime") is not None
needs_note_model = pytest.mark.skipif(not has_note_model, reason="needs basic-pitch's model")
needs_soundfont = pytest.mark.skipif(
    shutil.which("fluidsynth") is None or not EVALUATION_SOUNDFONT.exists(), reason="needs fluidsynth and TimGM6mb"
)


@pytest.fixture(scope="module")
def subject(tiny_folder, tmp_path_factory):
    """A tiny checkpoint with made-up music, and a judge that hears nothing."""
    with Session(str(tiny_folder)) as session:
        subject = Subject(session, work=tmp_path_factory.mktemp("work"), effort=Effort(quick=True))
        subject.held_out = MadeUp()
        subject.__dict__["judge"] = Deaf()
        yield subject


@pytest.fixture(autouse=True)
def made_up_teaching(monkeypatch):
    """In the place of renders by the training's soundfonts, which tests do without."""
    monkeypatch.setattr(covers, "taught_centroids_hz", lambda cases, seconds: [(500.0, 600.0, 900.0)] * len(cases))


def test_wishes_come_back_in_order_with_the_bits_that_they_have_alone(subject):
    sources = [subject.prepare(subject.held_out.audio(piece, 2, seconds=2.0)) for piece in (0, 1)]
    wishes = [Wish(sources[n % 2], ("piano", "choir")[n // 2 % 2], n, {"denoise": 0.3 + 0.1 * n}) for n in range(6)]
    counted = []
    together = generate(subject.session, wishes, on_done=lambda: counted.append(1))
    assert len(counted) == len(wishes)
    for wish, latent in zip(wishes, together, strict=True):
        words = subject.session.encode_text(tags=wish.prompt)
        alone = subject.session.generate(conditioning=words, source=wish.source, seed=wish.seed, **wish.options)
        assert torch.equal(latent.frames, alone.frames)


def test_no_wishes_are_no_latents(subject):
    assert generate(subject.session, []) == []


@pytest.mark.parametrize("part", [part for part in PARTS if part != "loras"])
def test_a_part_reports_every_figure_that_has_a_target(subject, part):
    if part in ("codec", "covers") and not has_note_model:
        pytest.skip("needs basic-pitch's model")
    result = measure(subject, part)
    names = [figure.name for figure in result.figures]
    assert len(set(names)) == len(names)
    assert set(TARGETS.get(part, {})) <= set(names)
    for listing in result.listings:
        assert all(len(row) == len(listing.columns) for row in listing.rows)


def test_what_must_hold_holds_for_any_weights(subject):
    values = {figure.name: figure.value for figure in measure(subject, "identity").figures}
    assert values["pinned frames equal the source"] == 1.0
    assert values["audio of pinned frames"] <= 1e-6
    assert values["denoise 0 returns the source"] == 1.0
    assert values["forwards at denoise 0"] == 0.0
    assert values["encoding again"] == 0.0


def test_loras_are_compared_with_none_and_taken_out_again(subject, tmp_path):
    shapes = linear_shapes(subject.session.checkpoint.transformer)
    name = next(name for name in shapes if ".self_attn." in name)
    generator = torch.Generator().manual_seed(0)
    factors = {
        f"base_model.model.{name}.lora_{half}.weight": torch.randn(shape, generator=generator)
        for half, shape in (("A", (2, shapes[name][1])), ("B", (shapes[name][0], 2)))
    }
    save_file(factors, tmp_path / "one.safetensors")
    subject.loras = tmp_path
    try:
        result = measure(subject, "loras")
    finally:
        subject.loras = None
    (listing,) = result.listings
    assert [row[0] for row in listing.rows] == ["one"]
    assert listing.rows[0][1] > 0
    assert subject.session.remove_last_lora() is None


@needs_note_model
def test_a_listening_case_is_drawn_and_told(subject, tmp_path):
    result = listening.render(subject, listening.CASES[0])
    listening.draw(result, tmp_path / "case.png")
    assert (tmp_path / "case.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "case.png").stat().st_size < 110_000
    page = listening.page(subject, [result], "listening")
    assert f"(listening/{listening.CASES[0].slug}.png)" in page
    assert subject.session.checkpoint.content_hash[:12] in page


def demon_eval(*arguments):
    command = [sys.executable, "-m", "engine_server.cli", "eval", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, cwd=Path(__file__).parents[2]
    )


@needs_soundfont
@needs_note_model
def test_the_command_prints_a_table_and_writes_json_and_a_picture(tiny_folder, tmp_path):
    out = ["--json", tmp_path / "figures.json", "--picture", tmp_path / "figures.png"]
    done = demon_eval(tiny_folder, "--quick", "--work", tmp_path, "--part", "codec", "--part", "speed", *out)
    assert done.returncode == 0, done.stderr
    assert "note F1, rendered" in done.stdout
    report = json.loads((tmp_path / "figures.json").read_text())
    assert list(report["parts"]) == ["codec", "speed"]
    assert report["quick"] is True
    assert (tmp_path / "figures.png").stat().st_size > 1000


def test_outputs_that_cannot_be_written_are_named_at_once(tmp_path):
    done = demon_eval("--json", tmp_path / "nowhere" / "figures.json")
    assert done.returncode == 1
    assert "E_OUTPUT" in done.stderr


@pytest.mark.parametrize(
    ("has_json", "finished", "says"),
    [
        (True, ["codec", "dose"], "figures.json holds codec, dose"),
        (True, [], "nothing was written"),
        (False, ["codec"], "nothing was written"),
    ],
)
def test_an_interrupted_run_says_what_it_has_written(tmp_path, monkeypatch, has_json, finished, says):
    def interrupted(*_, on_part, **__):
        for part in finished:
            on_part(PartResult(part))
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", interrupted)
    arguments = ["--json", str(tmp_path / "figures.json")] if has_json else []
    done = CliRunner().invoke(cli.app, ["eval", "--part", "speed", *arguments])
    assert done.exit_code == cli.EXIT_INTERRUPTED
    assert "interrupted" in done.output
    assert says in done.output


def test_an_unknown_part_is_named():
    done = demon_eval("--part", "taste")
    assert done.returncode == 1
    assert "E_FIELD" in done.stderr
    assert "taste" in done.stderr


def test_a_folder_without_loras_is_named(tmp_path):
    done = demon_eval("--part", "speed", "--loras", tmp_path / "typo")
    assert done.returncode == 1
    assert "E_FIELD" in done.stderr
    assert str(tmp_path / "typo") in done.stderr
