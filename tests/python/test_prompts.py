# SPDX-License-Identifier: Apache-2.0
"""Prompts, held to those that diffusers' own pipeline makes."""

from __future__ import annotations

import pytest
from diffusers import AceStepPipeline
from tiny_pipeline import build_pipeline

from engine_server.model.prompts import TRACK_NAMES, Metas, format_lyrics, format_prompt, task_instruction
from shared_protocol.errors import DemonError


@pytest.fixture(scope="module")
def pipeline():
    return build_pipeline()


@pytest.mark.parametrize(
    ("caption", "instruction", "metas"),
    [
        ("a string quartet", task_instruction("cover"), Metas()),
        ("", task_instruction("text2music"), Metas(bpm=120, key="A minor", meter=4, duration_s=60.9)),
        ("two\nlines {with} braces", "My own words", Metas(bpm=30, key="F# major", meter=3, duration_s=10)),
        ("ends with a colon:", "Do this:", Metas(bpm=300, key="Bb minor", meter=6, duration_s=600)),
        ("Flöte und \u5f26\u697d", task_instruction("lego", ["backing_vocals"]), Metas(meter=2)),
    ],
)
@pytest.mark.parametrize(("lyrics", "language"), [("", "en"), ("[verse]\nla la\n\nla", "yue"), ("x", "unknown")])
def test_both_prompts_are_upstreams_to_the_byte(pipeline, caption, instruction, metas, lyrics, language):
    theirs = pipeline._format_prompt(
        caption, lyrics, language, metas.duration_s, instruction, metas.bpm, metas.key,
        None if metas.meter is None else str(metas.meter),
    )  # fmt: skip
    assert (format_prompt(caption, instruction, metas), format_lyrics(lyrics, language)) == theirs


def test_the_line_breaks_of_the_template_are_as_the_model_learned_them():
    assert format_prompt("a flute") == (
        "# Instruction\nGenerate audio semantic tokens based on the given conditions:\n\n# Caption\na flute\n\n# Metas\n"
        "- bpm: N/A\n- timesignature: N/A\n- keyscale: N/A\n- duration: 30 seconds\n<|endoftext|>\n"
    )
    assert format_lyrics() == "# Languages\nen\n\n# Lyric\n<|endoftext|>"


@pytest.mark.parametrize("task", ["text2music", "repaint", "cover", "extract", "lego", "complete"])
def test_every_tasks_instruction_is_upstreams(task):
    assert task_instruction(task) == AceStepPipeline._get_task_instruction(task)
    for name in TRACK_NAMES if task in ("extract", "lego") else ():
        assert task_instruction(task, [name]) == AceStepPipeline._get_task_instruction(task, track_name=name)
    if task == "complete":
        names = ["drums", "backing_vocals"]
        assert task_instruction(task, names) == AceStepPipeline._get_task_instruction(
            task, complete_track_classes=names
        )
        assert task_instruction(task, names).endswith("DRUMS | BACKING_VOCALS:")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"task": "remix"}, "extract, lego, complete"),
        ({"task": "extract", "turbo": True}, "text2music, repaint, cover"),
        ({"task": "lego", "tracks": ["kazoo"]}, "woodwinds"),
        ({"task": "lego", "tracks": ["drums", "bass"]}, "1 at most"),
        ({"task": "cover", "tracks": ["drums"]}, "0 at most"),
    ],
)
def test_what_a_checkpoint_cannot_do_is_refused_with_what_it_can(arguments, says):
    with pytest.raises(DemonError, match=says) as caught:
        task_instruction(**arguments)
    assert caught.value.code == "E_TASK"


@pytest.mark.parametrize(
    "wrong",
    [
        {"bpm": 29}, {"bpm": 301}, {"bpm": 120.5}, {"bpm": True}, {"key": "H minor"}, {"key": "A Minor"}, {"key": ""},
        {"meter": 5}, {"duration_s": 9.9}, {"duration_s": 601}, {"duration_s": float("nan")},
    ],
)  # fmt: skip
def test_metas_outside_what_the_model_knows_are_refused_by_name(wrong):
    with pytest.raises(DemonError, match=next(iter(wrong))) as caught:
        Metas(**wrong)
    assert caught.value.code == "E_FIELD"


def test_a_language_that_is_no_code_is_refused():
    with pytest.raises(DemonError, match="language is 'en\\\\n'"):
        format_lyrics("", "en\n")
