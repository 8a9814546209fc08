# SPDX-License-Identifier: Apache-2.0
"""Whether a DAW will find the plugin."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine_server.doctor.finding import Finding, fail, ok, warn

BUNDLE = "DEMON.vst3"
BUILT = Path("build")
SCANNED = (Path.home() / ".vst3", Path("/usr/lib/vst3"), Path("/usr/local/lib/vst3"))
"""Where DAWs look on Linux."""


def check_plugin(
    scanned: Sequence[Path] = SCANNED, built: Path = BUILT, *, machine: str = platform.machine()
) -> list[Finding]:
    """The bundle lies where DAWs look, once, and holds a binary for this machine."""
    found = [folder / BUNDLE for folder in scanned if (folder / BUNDLE).exists()]
    if not found:
        if (built / BUNDLE).is_dir():
            return [
                warn("plugin", f"{built / BUNDLE} is built, but no DAW looks there", "copy it to ~/.vst3 and rescan")
            ]
        return [warn("plugin", "not installed here", "run `make plugin` and copy build/DEMON.vst3 to ~/.vst3, or "
                     "nothing if the DAW is on another machine")]  # fmt: skip
    findings = [_check_bundle(bundle, machine) for bundle in found]
    if len(found) > 1:
        findings.append(
            warn("plugin", f"there are {len(found)} copies, of which the DAW loads one", "keep one of them")
        )
    return findings


def _check_bundle(bundle: Path, machine: str) -> Finding:
    binary = bundle / "Contents" / f"{machine}-linux" / f"{bundle.stem}.so"
    try:
        with binary.open("rb") as file:
            is_library = file.read(4) == b"\x7fELF"
    except OSError as error:
        return fail("plugin", f"{binary}: {error.strerror}", "copy the whole folder DEMON.vst3 again")
    if not is_library:
        return fail("plugin", f"{binary} is no library", "copy the whole folder DEMON.vst3 again")
    return ok("plugin", f"{bundle}, version {_version(bundle) or 'not stated'}")


def _version(bundle: Path) -> str:
    """What the bundle says of itself; many say nothing."""
    for place in ("Contents/Resources/moduleinfo.json", "Contents/moduleinfo.json"):
        try:
            content = msgspec.json.decode((bundle / place).read_bytes(), type=dict[str, object])
        except (OSError, msgspec.MsgspecError):
            continue
        return str(content.get("Version", ""))
    return ""
