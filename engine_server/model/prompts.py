# SPDX-License-Identifier: Apache-2.0
"""The words that the text encoder was trained to read: upstream's prompt templates, metas and task instructions.

The line breaks of the templates are part of what the model knows. The constants come from diffusers, and the tests hold every
text to the one that `AceStepPipeline` makes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from diffusers.pipelines.ace_step.pipeline_ace_step import SFT_GEN_PROMPT, TASK_INSTRUCTIONS

from shared_protocol.errors import DemonError

TURBO_TASKS = ("text2music", "repaint", "cover")
"""What every checkpoint can do; turbo checkpoints can do nothing else."""
TRACK_TASKS = ("extract", "lego", "complete")
"""What base checkpoints can do besides: tasks on the tracks (stems) of a song."""
TRACK_NAMES = (
    "woodwinds", "brass", "fx", "synth", "strings", "percussion", "keyboard", "guitar", "bass", "drums",
    "backing_vocals", "vocals",
)  # fmt: skip

BPM_RANGE = (30, 300)
DURATION_RANGE_S = (10, 600)
METERS = (2, 3, 4, 6)
_KEY = re.compile(r"[A-G][#b]? (major|minor)")
_LANGUAGE = re.compile(r"[a-z]{2,3}|unknown")
_OPEN = "N/A"
_DEFAULT_DURATION_S = 30


@dataclass(frozen=True)
class Metas:
    """What is known of the music beyond its caption; None leaves a meta open.

    `bpm` is a whole number from 30 to 300, `key` is like "A minor" or "F# major", `meter` is 2, 3, 4 or 6, `duration_s` is 10 to
    600 and is told in whole seconds (30 if open, as upstream does). Raises DemonError `E_FIELD`.
    """

    bpm: int | None = None
    key: str | None = None
    meter: int | None = None
    duration_s: float | None = None

    def __post_init__(self) -> None:
        lowest, highest = BPM_RANGE
        whole = isinstance(self.bpm, int) and not isinstance(self.bpm, bool)
        if self.bpm is not None and not (whole and lowest <= self.bpm <= highest):
            raise DemonError("E_FIELD", f"bpm is {self.bpm!r}; a whole number from {lowest} to {highest} is expected")
        if self.key is not None and not _KEY.fullmatch(self.key):
            raise DemonError("E_FIELD", f"key is {self.key!r}; a note A to G, # or b or neither, then major or minor")
        if self.meter is not None and self.meter not in METERS:
            raise DemonError("E_FIELD", f"meter is {self.meter!r}; one of {METERS} is expected")
        shortest, longest = DURATION_RANGE_S
        if self.duration_s is not None and not shortest <= self.duration_s <= longest:
            raise DemonError("E_FIELD", f"duration_s is {self.duration_s!r}; {shortest} to {longest} is expected")

    def text(self) -> str:
        """The metas section of the text prompt."""
        seconds = _DEFAULT_DURATION_S if self.duration_s is None else int(self.duration_s)
        return (
            f"- bpm: {_OPEN if self.bpm is None else self.bpm}\n"
            f"- timesignature: {_OPEN if self.meter is None else self.meter}\n"
            f"- keyscale: {_OPEN if self.key is None else self.key}\n"
            f"- duration: {seconds} seconds\n"
        )


NO_METAS = Metas()


def task_instruction(task: str, tracks: Sequence[str] = (), *, turbo: bool = False) -> str:
    """The instruction of a task.

    `tracks`: for extract and lego the track in question, or none; for complete the tracks to add, or none. Raises DemonError
    `E_TASK` for an unknown task, a track task on a turbo checkpoint, and tracks that the task or the model does not know.
    """
    allowed = TURBO_TASKS if turbo else TURBO_TASKS + TRACK_TASKS
    if task not in allowed:
        kind = "turbo" if turbo else "base"
        raise DemonError("E_TASK", f"task is {task!r}; a {kind} checkpoint takes {', '.join(allowed)}")
    if unknown := [name for name in tracks if name not in TRACK_NAMES]:
        raise DemonError("E_TASK", f"tracks holds {unknown[0]!r}; the model knows {', '.join(TRACK_NAMES)}")
    most = {"extract": 1, "lego": 1, "complete": len(TRACK_NAMES)}.get(task, 0)
    if len(tracks) > most:
        raise DemonError("E_TASK", f"tracks holds {len(tracks)} names; {task} takes {most} at most")
    if not tracks:
        return TASK_INSTRUCTIONS[f"{task}_default" if task in TRACK_TASKS else task]
    names = " | ".join(name.upper() for name in tracks)
    return TASK_INSTRUCTIONS[task].format(TRACK_NAME=names, TRACK_CLASSES=names)


def format_prompt(caption: str, instruction: str = TASK_INSTRUCTIONS["cover"], metas: Metas = NO_METAS) -> str:
    """The text prompt; an instruction that lacks its closing colon is given one."""
    closed = instruction if instruction.endswith(":") else f"{instruction}:"
    return SFT_GEN_PROMPT.format(closed, caption, metas.text())


def format_lyrics(lyrics: str = "", language: str = "en") -> str:
    """The lyric prompt; empty lyrics mean an instrumental.

    `language` is a code of two or three letters, or "unknown". Raises DemonError `E_FIELD`.
    """
    if not _LANGUAGE.fullmatch(language):
        raise DemonError("E_FIELD", f"language is {language!r}; a code such as 'en' or 'yue' is expected, or 'unknown'")
    return f"# Languages\n{language}\n\n# Lyric\n{lyrics}<|endoftext|>"
