# SPDX-License-Identifier: Apache-2.0
"""The decoder's engines of a checkpoint where `demon engines build` puts them: which of them run the windows of tracks here."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from engine_server.model.layouts import Layout
from shared_protocol.errors import DemonError
from trt_engines.engine_file import EngineFile, Wanted
from trt_engines.engine_folder import EngineFolder, engines_root
from trt_engines.engine_kinds import DURATIONS_S, EngineKind, build_command, decoder_kind
from trt_engines.metadata import Machine, other_machine, read_metadata
from trt_engines.sizes import model_shape

log = logging.getLogger("demon.engine")


@dataclass(frozen=True)
class OwnEngine:
    """One that could be built of a checkpoint. refusal: why it may not be loaded; None for one that may."""

    kind: EngineKind
    file: EngineFile | None
    refusal: DemonError | None


def look_at_decoders(layout: Layout, checkpoint: str, checkpoint_hash: str, machine: Machine) -> list[OwnEngine]:
    """All decoders of the default precision, the shortest first: what is there for a machine.

    Raises DemonError `E_CHECKPOINT_LAYOUT` for a checkpoint that has no engines.
    """
    folder = EngineFolder(engines_root(), checkpoint, checkpoint_hash)
    shape = model_shape(layout)
    found = []
    for kind in (decoder_kind(shape, seconds) for seconds in DURATIONS_S):
        try:
            found.append(OwnEngine(kind, _find(folder, kind, machine), None))
        except DemonError as error:
            found.append(OwnEngine(kind, None, error))
    return found


def own_decoders(
    layout: Layout, checkpoint: str, checkpoint_hash: str, *, frames: int, machine: Machine
) -> list[EngineFile]:
    """Engines that a machine may load and that take windows of so many frames, the shortest first.

    No engine is read, so one whose bytes were changed in place is among them: `load_engine` refuses it. One that is stale or cut
    short is left out where another will do, and the log says so.

    checkpoint: as the user named it, for commands in messages. Raises DemonError if there is none, with the command that builds
    it: `E_ENGINE_NOT_BUILT`, or what is wrong with one that was built (`E_ENGINE_FILE`, `E_ENGINE_STALE`, `E_CALIBRATION`);
    `E_FIELD` for windows longer than any engine's.
    """
    fitting = [
        one for one in look_at_decoders(layout, checkpoint, checkpoint_hash, machine) if one.kind.most_frames >= frames
    ]
    if not fitting:
        raise DemonError("E_FIELD", f"windows of {frames} frames are longer than any engine's: use the eager backend")
    refusals = [one.refusal for one in fitting if one.refusal is not None]
    wrong = [error for error in refusals if error.code != "E_ENGINE_NOT_BUILT"]
    found = [one.file for one in fitting if one.file is not None]
    if not found:
        raise (wrong or refusals)[0]
    for error in wrong:
        log.warning("an engine is left out: %s", error)
    return found


def _find(folder: EngineFolder, kind: EngineKind, machine: Machine) -> EngineFile:
    """One that is there, whole by its length, and for this machine. Nothing of the engine itself is read.

    Raises DemonError: `E_ENGINE_NOT_BUILT`, `E_ENGINE_FILE` for one that is damaged, `E_ENGINE_STALE` for one of another machine,
    checkpoint, recipe or shape, each with the command that builds it; `E_CALIBRATION` as `EngineFolder.calibration_hash`.
    """
    command = build_command(folder.checkpoint, kind.component, round(kind.duration_s), kind.precision)
    if not folder.has(kind):
        raise DemonError("E_ENGINE_NOT_BUILT", f"there is no {kind.name} yet; run: {command}")
    try:
        note = read_metadata(folder.note(kind))
    except DemonError as error:
        raise DemonError(error.code, f"{error.message}. Run: {command} --force-rebuild") from error
    if why := folder.differences(note, kind) + other_machine(note, machine):
        raise DemonError("E_ENGINE_STALE", f"{kind.name}: {'; '.join(why)}. Run: {command}")
    file = EngineFile(folder.engine(kind), Wanted("decoder", folder.checkpoint, folder.checkpoint_hash), note)
    file.check_length()
    return file
