# SPDX-License-Identifier: Apache-2.0
"""The checkpoint, the LoRAs that fit it, and whether rows keep their bits on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine_server.device_name import AUTO, check_device
from engine_server.doctor.finding import Finding, fail, ok, warn

EMBEDDED_FOLDER = Path(__file__).parents[1] / "assets" / "embedded"
"""Named here too, so that `--quick` need not import the libraries of the model."""


def check_model(
    name: str,
    lora_folders: Sequence[Path],
    *,
    device: str = AUTO,
    quick: bool,
    load: Callable[[], Any],
) -> list[Finding]:
    """The checkpoint loads, rows are independent in it, and the LoRA folders can be read.

    device: where the engine would compute. quick: load nothing, only see that the folders are there. load: gives the checkpoint.
    """
    check_device(device)
    if quick:
        return [_find_model(name), *check_lora_folders(lora_folders)]
    checkpoint = load()
    place = checkpoint.placement
    where = f"{checkpoint.backend} on {place.device}, {place.processor}"
    findings = [ok("checkpoint", f"{checkpoint.name} {checkpoint.content_hash}, {where}")]
    findings.append(check_rows(checkpoint))
    return findings + check_lora_folders(lora_folders, checkpoint)


def check_rows(checkpoint: Any) -> Finding:
    """A row's bits depend neither on its place in a forward nor on its neighbours: what every promise of equal bits rests on.

    Runs the checkpoint's own decoder at the size of a window, as the ring does.
    """
    from engine_server.model.row_bits import dependent_rows

    sizes = checkpoint.track_sizes
    wrong = dependent_rows(checkpoint.decoder, sizes, checkpoint.placement.device)
    if wrong:
        return fail(
            "rows",
            f"bits depend on {' and on '.join(wrong)}: the same project will not give the same bits",
            "see the line on rounding above; if it is ok, this processor needs another build of PyTorch",
        )
    return ok("rows", f"bits depend on neither place nor neighbours ({sizes.frames} frames)")


def check_lora_folders(folders: Sequence[Path], checkpoint: Any = None) -> list[Finding]:
    """Every folder and file can be read; with a checkpoint, also that files fit it. A folder that is not there has no LoRAs."""
    findings = []
    for folder in folders:
        if not folder.exists():
            findings.append(ok("loras", f"{folder} is not there yet"))
        elif not folder.is_dir():
            findings.append(fail("loras", f"{folder} is not a folder", "move it away"))
        elif not os.access(folder, os.R_OK | os.X_OK):
            findings.append(fail("loras", f"{folder} cannot be read", f"run: chmod u+rx '{folder}'"))
        else:
            findings.append(_read_loras(folder, checkpoint))
    return findings


def _read_loras(folder: Path, checkpoint: Any) -> Finding:
    files = sorted(folder.rglob("*.safetensors"))
    closed = [str(file) for file in files if not os.access(file, os.R_OK)]
    if closed:
        return fail("loras", f"cannot be read: {', '.join(closed)}", "run: chmod u+r on them")
    if checkpoint is None:
        return ok("loras", f"{folder}: {len(files)} files, not opened")
    from engine_server.model.lora import linear_shapes
    from engine_server.model.lora_library import LoraLibrary

    library = LoraLibrary(checkpoint.adapters, linear_shapes(checkpoint.transformer))
    names, errors = library.register_directory(folder)
    if errors:
        return warn(
            "loras", f"{folder}: left out: " + "; ".join(map(str, errors)), "move what does not fit this model away"
        )
    return ok("loras", f"{folder}: {', '.join(names) or 'none'}")


def _find_model(name: str) -> Finding:
    folder = EMBEDDED_FOLDER if name == "embedded" else Path(name).expanduser()
    if not folder.is_dir():
        return warn("checkpoint", f"{name} is no folder here", "run without --quick to fetch it or hear why not")
    return ok("checkpoint", f"{folder}, not loaded")
