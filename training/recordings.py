# SPDX-License-Identifier: Apache-2.0
"""Freely licensed recordings from Debian packages: music of ufoai-music, single sounds of sonic-pi-samples."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from training.render import SAMPLE_RATE, to_int16

# Licences as in that package's debian/copyright. Its track turinItalyM is public domain too and van_theme CC-BY, but
# both serve as test songs; the Psymong and AlexFightmare tracks are listed under GPL-2 and are left out.
UFOAI_MUSIC = Path("/usr/share/games/ufoai/base/0music.pk3")  # Debian ufoai-music 2.5-2, a zip archive
PUBLIC_DOMAIN_TRACKS = ("greecei",)
CC_BY_TRACKS = (
    "David01",
    "David02",
    "David03",
    "David04",
    "David05",
    "azrael1",
    "karlmacklin_geoscape",
    "van_geoscape",
    "van_mission",
    "van_mission2",
    "van_mission3",
    "van_mission4",
)
RECORDING_LIMIT_S = 300
SONIC_PI_SAMPLES = Path("/usr/share/sonic-pi/samples")  # Debian sonic-pi-samples
SONIC_PI_COPYRIGHT = Path("/usr/share/doc/sonic-pi-samples/copyright")
SAMPLE_GAP_S = 0.12  # silence after each single sound


def cc0_samples(copyright_text: str) -> list[str]:
    """File names of the samples that a Debian copyright file (format 1.0) puts under CC0, one stanza each, sorted."""
    names = []
    for stanza in copyright_text.split("\n\n"):
        files = re.search(r"^Files:((?:.|\n )*)", stanza, re.MULTILINE)
        if files and re.search(r"^License: CC0\s*$", stanza, re.MULTILINE):
            names += [Path(name).name for name in files[1].split() if "/samples/" in name]
    return sorted(names)


def build_recordings(work: Path, archive_path: Path = UFOAI_MUSIC) -> None:
    """Up to five minutes of each licensed track, then the CC0 samples: `recordings.npy`, and names in `recordings.json`."""
    parts, spans = [], []
    for name, licence, audio in (*_tracks(archive_path), *_samples()):
        parts.append(audio)
        spans.append({"track": name, "licence": licence, "samples": len(audio)})
    recordings = np.concatenate(parts)
    np.save(work / "recordings.npy", recordings)
    (work / "recordings.json").write_text(json.dumps(spans, indent=1))
    print(f"recordings: {len(parts)} tracks, {len(recordings) / SAMPLE_RATE / 60:.0f} min")


def _tracks(archive_path: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    with zipfile.ZipFile(archive_path) as archive:
        for name in PUBLIC_DOMAIN_TRACKS + CC_BY_TRACKS:
            audio, rate = soundfile.read(io.BytesIO(archive.read(f"music/{name}.ogg")), always_2d=True)
            licence = "public domain" if name in PUBLIC_DOMAIN_TRACKS else "CC-BY-3.0"
            yield name, licence, _stereo(audio[: RECORDING_LIMIT_S * rate], rate)


def _samples() -> Iterator[tuple[str, str, np.ndarray]]:
    for name in cc0_samples(SONIC_PI_COPYRIGHT.read_text()):
        audio, rate = soundfile.read(SONIC_PI_SAMPLES / name, always_2d=True)
        gap = ((0, round(SAMPLE_GAP_S * SAMPLE_RATE)), (0, 0))
        yield Path(name).stem, "CC0", np.pad(_stereo(audio, rate), gap)


def _stereo(audio: np.ndarray, rate: int) -> np.ndarray:
    """int16 [samples, 2] at 48 kHz; a mono track plays on both sides."""
    return to_int16(soxr.resample(audio[:, [0, -1]], rate, SAMPLE_RATE))
