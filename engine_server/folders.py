# SPDX-License-Identifier: Apache-2.0
"""Where the engine keeps what belongs to its user: the same folders as the plugin's. Nothing is created here.

The variables are read at every call; one that is not an absolute path is ignored, as the XDG base directory rules say.
"""

from __future__ import annotations

import os
from pathlib import Path

NAME = "demon-bridge"


def config_folder() -> Path:
    """`$XDG_CONFIG_HOME/demon-bridge` or `~/.config/demon-bridge`."""
    return _named("XDG_CONFIG_HOME", Path.home() / ".config") / NAME


def data_folder() -> Path:
    """`$XDG_DATA_HOME/demon-bridge` or `~/.local/share/demon-bridge`."""
    return _named("XDG_DATA_HOME", Path.home() / ".local" / "share") / NAME


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/demon-bridge` or `~/.cache/demon-bridge`: what can be made again."""
    return _named("XDG_CACHE_HOME", Path.home() / ".cache") / NAME


def _named(variable: str, otherwise: Path) -> Path:
    path = Path(os.environ.get(variable, ""))
    return path if path.is_absolute() else otherwise
