# SPDX-License-Identifier: Apache-2.0
"""A session of Ardour 7 that a script makes, exports and plays, without a display and without a sound card.

Everything lives in one folder, Ardour's own settings included. Ardour has been seen to crash when it closes, with any
plugin and with none: what it leaves is judged, not how it ends.

Ardour tells a plugin the time at which the plugin's output sounds, and plays automation by the same time: what enters a
plugin of latency L at session time t is the music at t + L. (Hosts built on JUCE tell the time of the input.) A curve
that is meant for the music at t therefore has to be drawn at t - L; see `make`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from engine_server.files import read_audio, write_audio
from hosts.parameters import parameter_name, proportion
from shared_protocol.codec import Floats
from shared_protocol.timebase import FRAMES_PER_SECOND

SCRIPTS = Path(__file__).parent / "ardour"
INSTALLED = Path("/usr/lib/ardour7")
LUA = shutil.which("ardour7-lua")
EXPORT = shutil.which("ardour7-export")
SCANNER = INSTALLED / "ardour-vst3-scanner"

NAME, RATE = "session", 48_000
TICKS_PER_QUARTER = 1920
SUPERCLOCK = 282_240_000
"""Ardour's units of time per second."""
BPM = 125.0
"""One of the tempi at which a frame is a whole number of ticks: 160. At 120 it is not."""
TICKS_PER_FRAME = int(TICKS_PER_QUARTER * BPM / 60 / FRAMES_PER_SECOND)
AGE_S = 120
"""Ardour trusts a scan that is newer than the plugin, in whole seconds."""


def why_not() -> str | None:
    """What is missing for these sessions; None when they can be made."""
    absent = [name for name, path in (("ardour7-lua", LUA), ("ardour7-export", EXPORT)) if path is None]
    absent += [] if SCANNER.exists() else [SCANNER.name]
    return f"Ardour 7 is not installed: no {', '.join(absent)}" if absent else None


@dataclass(frozen=True)
class Roll:
    """What a session said after it had rolled in real time."""

    rolled: bool
    sample: int
    """Where the transport stood at the end."""
    xruns: int
    log: str


class ArdourSession:
    """One track with the plugin on it. `environment` adds to Ardour's own, in every run."""

    def __init__(self, folder: Path, bundle: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder / NAME
        self._job = folder / "job.lua"
        self._home = folder / "home"
        paths = {"DATA": "/usr/share/ardour7", "CONFIG": "/etc/ardour7", "DLL": str(INSTALLED)}
        self._environment = {name: value for name, value in os.environ.items() if name != "DISPLAY"}
        self._environment |= {f"ARDOUR_{name}_PATH": path for name, path in paths.items()}
        self._environment |= {"HOME": str(self._home), "ARDOUR_JOB": str(self._job)} | dict(environment)
        self._environment |= {"LD_LIBRARY_PATH": str(INSTALLED)}
        for variable in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
            self._environment.pop(variable, None)  # they would lead out of $HOME
        self._install(bundle)

    def make(self, source: Floats, lanes: Mapping[str, float | Floats], *, at: int = 0, start: int = 0) -> None:
        """With `source` `[2, N]` at 48 kHz from frame `at` on, and every lane's value, or its values from frame 0 on.

        The session goes from frame `start` to the end of the source.
        """
        automation = {parameter_name(lane): steps_of(lane, curve) for lane, curve in lanes.items()}
        self._write_job(bpm=BPM, plugin="DEMON", automation=automation)
        self._run([str(LUA), str(SCRIPTS / "make_session.lua")], marker="MADE")
        file = self.folder / f"{NAME}.ardour"
        place_audio(file, self.folder / "interchange" / NAME / "audiofiles", source, at=at, start=start)

    def export(self, timeout_s: float = 150.0) -> Floats:
        """The session from its start to its end, faster than real time, as 32-bit floats: `[2, N]`. Raises TimeoutExpired."""
        out = self.folder.parent / "export.wav"
        out.unlink(missing_ok=True)
        self._run([str(EXPORT), "-b", "float", "-o", str(out), str(self.folder), NAME], timeout_s=timeout_s)
        audio, rate = read_audio(out)
        assert rate == RATE
        return audio

    def roll(self, seconds: float) -> Roll:
        """Play from the start for some seconds, in real time."""
        self._write_job(seconds=seconds)
        log = self._run([str(LUA), str(SCRIPTS / "roll.lua")], marker="ROLLED", timeout_s=seconds + 60)
        said = dict(line.split() for line in log.splitlines() if len(line.split()) == 2)
        return Roll(said["rolling"] == "true", int(said["sample"]), int(said["xruns"]), log)

    def _install(self, bundle: Path) -> None:
        """Put the plugin where Ardour looks for plugins, and have it scanned."""
        target = self._home / ".vst3" / bundle.name
        shutil.copytree(bundle, target)
        old = time.time() - AGE_S
        for path in [target, *target.rglob("*")]:
            os.utime(path, (old, old))
        self._run([str(SCANNER), "-f", str(target)])

    def _write_job(self, **fields: object) -> None:
        known = {"folder": str(self.folder), "name": NAME, "rate": RATE}
        self._job.write_text(f"return {to_lua(known | fields)}\n")

    def _run(self, command: Sequence[str], *, marker: str = "", timeout_s: float = 120.0) -> str:
        """Run to the end, however it ends; what was printed. Raises RuntimeError when it lacks the marker."""
        done = subprocess.run(
            command, env=self._environment, cwd=self.folder.parent, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", timeout=timeout_s, check=False,
        )  # fmt: skip
        if marker not in done.stdout:
            raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{done.stdout[-4000:]}")
        return done.stdout


def steps_of(lane: str, curve: float | Floats) -> list[list[float]]:
    """[tick, normalised value] wherever a curve of values per frame changes."""
    values = np.atleast_1d(np.asarray(curve, dtype=np.float64))
    starts = [0, *(np.flatnonzero(np.diff(values)) + 1)]
    return [[int(frame) * TICKS_PER_FRAME, proportion(lane, float(values[frame]))] for frame in starts]


def to_lua(value: object) -> str:
    """A Lua expression for text, numbers, lists and dictionaries."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"[{to_lua(key)}] = {to_lua(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "{" + ", ".join(map(to_lua, value)) + "}"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


# --- audio: its scripts cannot import files, so the region is written into the session's file ---


def place_audio(session: Path, folder: Path, source: Floats, *, at: int, start: int) -> None:
    """Put `source` `[2, N]` at frame `at` of the first track, and the session's range from frame `start` to its end."""
    tree = ElementTree.parse(session)
    root = tree.getroot()
    ids = count(1 + max(int(each.get("id", "0")) for each in root.iter() if each.get("id", "0").isdigit()))
    sources = list(_add_sources(_found(root, "Sources"), folder, source, ids))
    length, position = source.shape[1] * (SUPERCLOCK // RATE), at * (SUPERCLOCK // FRAMES_PER_SECOND)
    for parent, is_whole_file in ((_found(root, "Regions"), True), (_found(root, "Playlists/Playlist"), False)):
        extent = f"a{length}@a{0 if is_whole_file else position}"
        parent.append(_region(sources, extent, next(ids), is_whole_file=is_whole_file))
    locations = _found(root, "Locations")
    for location in [each for each in locations if "IsSessionRange" in each.get("flags", "")]:
        locations.remove(location)
    begin, end = start * (SUPERCLOCK // FRAMES_PER_SECOND), position + length
    fields = {"name": "session", "start": f"a{begin}", "end": f"a{end}", "flags": "IsSessionRange"}
    ElementTree.SubElement(
        locations, "Location", fields | {"id": str(next(ids)), "locked": "0", "timestamp": "0", "cue": "0"}
    )
    root.set("id-counter", str(next(ids)))
    tree.write(session, encoding="UTF-8", xml_declaration=True)


def _add_sources(parent: ElementTree.Element, folder: Path, audio: Floats, ids: Iterator[int]) -> Iterator[str]:
    """One file of one channel each, as Ardour keeps stereo material; their ids."""
    for channel, letter in zip(audio, "LR", strict=True):
        name, identifier = f"music%{letter}.wav", str(next(ids))
        write_audio(folder / name, channel[None], RATE)
        fields = {"name": name, "type": "audio", "flags": "", "channel": "0", "origin": "", "gain": "1"}
        ElementTree.SubElement(parent, "Source", fields | {"id": identifier})
        yield identifier


def _region(sources: Sequence[str], extent: str, identifier: int, *, is_whole_file: bool) -> ElementTree.Element:
    zero = (
        "muted locked video-locked automatic import external sync-marked left-of-split right-of-split hidden"
        " position-locked valid-transients layering-index contents envelope-active default-fade-in default-fade-out"
        " fade-in-active fade-out-active"
    )
    fields = dict.fromkeys(zero.split(), "0") | dict.fromkeys(("opaque", "stretch", "shift", "scale-amplitude"), "1")
    fields |= {"name": "music" if is_whole_file else "music.1", "whole-file": str(int(is_whole_file))}
    fields |= {"start": "a0", "length": extent, "sync-position": "a0", "tags": "", "type": "audio"}
    fields |= {"first-edit": "nothing", "id": str(identifier), "channels": str(len(sources))}
    for channel, source in enumerate(sources):
        fields |= {f"source-{channel}": source, f"master-source-{channel}": source}
    return ElementTree.Element("Region", fields)


def _found(root: ElementTree.Element, path: str) -> ElementTree.Element:
    element = root.find(path)
    if element is None:
        raise ValueError(f"the session has no {path}")
    return element
