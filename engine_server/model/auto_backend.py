# SPDX-License-Identifier: Apache-2.0
"""What `auto` stands for: the fastest backend that this machine has, by what was measured here once.

The choice decides bits. So it rests on what is present and on a record of measurements that is made once and kept, never on how
busy the machine is today: the next start chooses the same. Only where the chosen one does not start does the next one play, and
the log says so.
"""

from __future__ import annotations

import datetime
import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch

from engine_server import __version__
from engine_server.diffusion.decoder import Decoder
from engine_server.diffusion.ring import DEFAULT_BATCH
from engine_server.model.backend_probe import in_words, probe, release, try_once
from engine_server.model.backend_record import Key, Measured, Record, folder, measuring, read_record, write_record
from engine_server.model.backends import AUTO, COMPILE, DEAF_TO_LORAS, EAGER, RUNNING, TENSORRT, make_decoder
from engine_server.model.checkpoint import Checkpoint, load_found, open_engines
from engine_server.model.checkpoint_files import CheckpointFiles, find_checkpoint
from engine_server.model.compile_cache import processor_of
from engine_server.model.layouts import build
from engine_server.model.lora import AdapterBank
from engine_server.model.placement import Placement, open_device, placement
from engine_server.model.track_sizes import TrackSizes
from shared_protocol.errors import DemonError

log = logging.getLogger("demon.engine")

WORTH = 0.9
"""Another backend has to be faster than eager by a tenth: eager starts at once, and hears everything."""
CONDITION_WIDTH, CHANNELS = 2048, 64
"""Of a configuration that does not say: diffusers' own."""


@dataclass(frozen=True)
class Ground:
    """What a choice rests on.

    engine: hash of the TensorRT engine that would run, empty if none would. absent: backends that cannot be had, and why.
    """

    files: CheckpointFiles
    place: Placement
    sizes: TrackSizes
    key: Key
    engine: str
    absent: Mapping[str, str]


def load_chosen(
    name: str,
    *,
    backend: str = AUTO,
    device: str | None = None,
    dtype: str | None = None,
    quantization: str | None = None,
    engine: str | None = None,
    offers_loras: bool = True,
) -> Checkpoint:
    """Load a checkpoint by a backend of `BACKENDS`. A named one runs or fails; `auto` fails only where eager would.

    offers_loras: whether some may be asked for, so that `auto` takes nothing that is deaf to them. The rest: see
    `load_checkpoint`, also for what it raises.

    The first start with a TensorRT engine measures it, and eager, for some seconds.
    """
    place = placement(device, dtype)
    files = find_checkpoint(name)
    if backend != AUTO:
        return load_found(files, place, backend=backend, quantization=quantization, engine=engine)
    if quantization is not None:
        reason = f"{EAGER}: with {quantization} Linears auto measures nothing; name another backend if it is to be one"
        return load_found(files, place, backend=EAGER, quantization=quantization, reason=reason)
    ground = survey(files, place, offers_loras=offers_loras)
    return load_best(ground, settle(ground))


def survey(files: CheckpointFiles, place: Placement, *, offers_loras: bool) -> Ground:
    """Look at what is present; nothing is loaded. Raises DemonError `E_CHECKPOINT_LAYOUT`."""
    files.needed_parts()
    configs = {name: part.config for name, part in files.layout.parts.items()}
    sizes = TrackSizes.of(
        files.settings,
        width=int(configs["condition_encoder"].get("hidden_size") or CONDITION_WIDTH),
        channels=int(configs["transformer"].get("audio_acoustic_hidden_dim") or CHANNELS),
    )
    engine, absent = "", {}
    if offers_loras and TENSORRT in DEAF_TO_LORAS:
        absent[TENSORRT] = "it hears no LoRA, and there are some to choose from"
    elif place.device.type != "cuda":
        absent[TENSORRT] = "it computes on a GPU"
    else:
        try:
            own = open_engines(files, place).own_decoders(files.layout, frames=sizes.frames)
            engine = own[0].note.engine_hash
        except DemonError as error:
            absent[TENSORRT] = str(error)
    return Ground(files, place, sizes, _key(files, place, sizes), engine, absent)


def settle(ground: Ground) -> Record | None:
    """What was measured for a ground; where an engine is there that was not, it is measured now, and kept.

    None where nothing was, or what is measured cannot be kept: then eager plays, which needs no measuring to be the same again.
    """
    record = read_record(ground.key)
    if is_settled(ground, record):
        return record
    try:
        with measuring():
            record = read_record(ground.key)
            if not is_settled(ground, record):
                log.warning("measuring backends, this once")
                record = _measure(ground, compiles=record is not None and record.of(COMPILE) is not None)
                write_record(record)
            return record
    except (OSError, DemonError) as error:
        log.warning("%s cannot be used (%s): nothing that is measured can be kept", folder(), error)
        return None


def measure_anew(ground: Ground) -> Record:
    """Measure everything that can be had, compiling too, for a minute or more, and keep it.

    Raises DemonError `E_OUTPUT` if it cannot be kept.
    """
    try:
        with measuring():
            record = _measure(ground, compiles=True)
            write_record(record)
            return record
    except OSError as error:
        raise DemonError("E_OUTPUT", f"{folder()} cannot be used: {error}; mend it, or set XDG_CACHE_HOME") from error


def ranking(ground: Ground, record: Record | None) -> list[str]:
    """Backends in the order in which they are tried, the choice first; eager is always among them."""
    usable = [one for one in record.measured if _is_usable(ground, record, one)] if record else []
    usable.sort(key=lambda one: (one.ms or 0.0) * (WORTH if one.backend == EAGER else 1.0))
    names = [one.backend for one in usable]
    return names if EAGER in names else [*names, EAGER]


def reason(ground: Ground, record: Record | None, chosen: str) -> str:
    """Why a backend is taken and the others are not, in a line."""
    return "; ".join(
        [_why(record, chosen), *(_why_not(ground, record, one, chosen=chosen) for one in RUNNING if one != chosen)]
    )


def command(ground: Ground) -> str:
    """What measures everything."""
    return f"demon doctor --measure-backends --model {shlex.quote(ground.files.name)} --device {ground.place.device}"


def load_best(ground: Ground, record: Record | None) -> Checkpoint:
    """The first of the ranking that starts. Raises DemonError, and what else the last of them fails with."""
    names = ranking(ground, record)
    device, failed = ground.place.device, ""
    for name in names:
        why = failed + reason(ground, record, name)
        try:
            checkpoint = load_found(ground.files, ground.place, backend=name, reason=why)
            if len(names) > 1:
                try_once(checkpoint.decoder, ground.sizes, device)
        except Exception as error:  # whatever is wrong with this one, the next may play
            if name == names[-1]:
                raise
            told = in_words(error)
            log.warning("%s does not start now, and the next backend plays, with bits of its own: %s", name, told)
            failed += f"{name} does not start now ({told}); "
        else:
            log.info("auto takes %s", why)
            return checkpoint
        release(device)
    raise AssertionError("a ranking is never empty")


def _measure(ground: Ground, *, compiles: bool) -> Record:
    files, place = ground.files, ground.place
    open_device(place)
    measure = partial(probe, sizes=ground.sizes, device=place.device)
    measured: list[Measured] = []
    if TENSORRT not in ground.absent:
        frames = ground.sizes.frames
        measured.append(measure(TENSORRT, lambda: open_engines(files, place).own_decoder(files.layout, frames=frames)))
    for name in (EAGER, COMPILE) if compiles else (EAGER,):
        measured.append(measure(name, partial(_torchs_decoder, ground, name)))
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Record(ground.key, ground.engine, measured, now)


def _torchs_decoder(ground: Ground, backend: str) -> Decoder:
    part, place, adapters = ground.files.layout.parts["transformer"], ground.place, AdapterBank()
    adapters.to(place.device, place.dtype)
    transformer = build("transformer", part, device=place.device, dtype=place.dtype)
    return make_decoder(transformer, backend=backend, adapters=adapters)


def _key(files: CheckpointFiles, place: Placement, sizes: TrackSizes) -> Key:
    is_cpu = place.device.type == "cpu"
    return Key(
        demon=__version__,
        checkpoint_hash=files.content_hash,
        processor=processor_of(place.device),
        threads=torch.get_num_threads() if is_cpu else 0,
        dtype=str(place.dtype).removeprefix("torch."),
        torch=str(torch.__version__),
        tensorrt="" if is_cpu else _tensorrt(),
        rows=DEFAULT_BATCH,
        frames=sizes.frames,
        tokens=sizes.tokens,
    )


def _tensorrt() -> str:
    from trt_engines.tensorrt_library import load_tensorrt

    try:
        library = load_tensorrt()
    except DemonError:
        return ""
    return f"{library.name} {library.version}"


def is_settled(ground: Ground, record: Record | None) -> bool:
    """Whether nothing is there that should be measured without being asked for."""
    return not ground.engine or (record is not None and record.engine == ground.engine)


def _is_usable(ground: Ground, record: Record, one: Measured) -> bool:
    if one.ms is None or one.backend in ground.absent:
        return False
    return one.backend != TENSORRT or record.engine == ground.engine


def _why(record: Record | None, chosen: str) -> str:
    one = record.of(chosen) if record else None
    if one is None or one.ms is None:
        return f"{chosen}: it runs wherever PyTorch does"
    return f"{chosen}: {one.ms:.1f} ms a forward, measured here"


def _why_not(ground: Ground, record: Record | None, other: str, *, chosen: str) -> str:
    one = record.of(other) if record else None
    if other in ground.absent:
        return f"not {other}: {ground.absent[other]}"
    if one is None:
        return f"{other} was not measured, which takes a minute or more: {command(ground)}"
    if one.ms is None:
        return f"not {other}: {one.trouble} (to try again: {command(ground)})"
    eager = record.of(EAGER) if record else None
    is_near = eager is not None and eager.ms is not None and one.ms < eager.ms
    return f"{other} takes {one.ms:.1f} ms{', not a tenth less' if is_near and chosen == EAGER else ''}"
