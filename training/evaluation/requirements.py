# SPDX-License-Identifier: Apache-2.0
"""What the parts of an evaluation need beyond the engine, and how to install it."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from enum import Enum, auto
from importlib.util import find_spec
from pathlib import Path

from shared_protocol.errors import DemonError

PACKAGES = ("matplotlib", "mido", "scipy")
"""What every part needs."""
NOTE_PACKAGES = ("onnxruntime", "basic_pitch")
DEBIAN_PACKAGES = (
    "fluidsynth",
    "timgm6mb-soundfont",
    "fluid-soundfont-gm",
    "fluidr3mono-gm-soundfont",
    "musescore-general-soundfont-small",
)
HOW = (
    "install it with: pip install -e '.[training]' && pip install --no-deps basic-pitch==0.4.0, and on Debian: "
    f"apt install {' '.join(DEBIAN_PACKAGES)}; songs are in the project's fixtures/, which no wheel holds"
)
"""basic-pitch without its dependencies: it asks for TensorFlow, and only its ONNX file is used."""


class Need(Enum):
    """What some parts need and others do not."""

    RENDERS = auto()
    """Held-out renders: a synthesiser with the held-out soundfont."""
    JUDGE = auto()
    """The same with the training's soundfonts, to train the judge on."""
    NOTES = auto()
    """The note model."""
    SONGS = auto()
    """The project's fixtures."""


NEEDS: Mapping[str, Collection[Need]] = {
    "codec": (Need.RENDERS, Need.NOTES, Need.SONGS),
    "identity": (Need.RENDERS,),
    "covers": (Need.RENDERS, Need.JUDGE, Need.NOTES),
    "colours": (Need.RENDERS,),
    "dose": (Need.RENDERS,),
    "lanes": (Need.RENDERS,),
    "loras": (Need.RENDERS, Need.JUDGE),
    "speed": (),
}
PARTS = tuple(NEEDS)
"""In the order in which they run; each is a module of `training.evaluation.parts`."""
LISTENING = (Need.JUDGE, Need.NOTES, Need.SONGS)
"""What the page of `training.evaluation.listening` needs."""


def check_requirements(parts: Collection[str]) -> None:
    """Raise DemonError `E_REQUIREMENTS` naming what is missing for some parts, and how to install it.

    Imports nothing that may be missing. A part that there is none of needs nothing.
    """
    check_needs({need for part in parts for need in NEEDS.get(part, ())})


def check_needs(needs: Collection[Need]) -> None:
    """The same for needs."""
    packages = (*PACKAGES, *(NOTE_PACKAGES if Need.NOTES in needs else ()))
    missing = [name for name in packages if find_spec(name) is None]
    if {Need.RENDERS, Need.JUDGE} & set(needs) and shutil.which("fluidsynth") is None:
        missing.append("fluidsynth")
    if not missing:
        missing = [str(file) for file in _files(needs) if not file.exists()]
    if missing:
        raise DemonError("E_REQUIREMENTS", f"{', '.join(missing)} missing; {HOW}")


def _files(needs: Collection[Need]) -> list[Path]:
    from training.build_data import EVALUATION_SOUNDFONT, SOUNDFONTS
    from training.evaluation.material import PAIRS, RECORDINGS, fixture

    files = {
        Need.RENDERS: [EVALUATION_SOUNDFONT],
        Need.JUDGE: list(SOUNDFONTS),
        Need.NOTES: [],
        Need.SONGS: [fixture(name) for name in (*RECORDINGS, *PAIRS)],
    }
    return [file for need in needs for file in files[need]]
