# SPDX-License-Identifier: Apache-2.0
"""From the name of a checkpoint to a local folder: a folder as it is, or a repository of a model hub, by way of its cache.

A name `owner/repository` or `owner/repository/folder` that is no local folder is looked up in the local cache first, so that
what plays does not change from one start to the next, and a machine without network plays what it has. Only what is not
there is downloaded: weights, configurations and vocabulary, never code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HTTPError

from engine_server.model.layouts import COMPANIONS
from shared_protocol.errors import DemonError

FILES = ("*.safetensors", "*.json", "*.txt", "*silence_latent.pt")
LANGUAGE_MODELS = "acestep-5Hz-lm-*"
"""Upstream's song planners share a repository with the checkpoint, and are of no use here."""
PROBE_SECONDS = 10.0
HUB_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)((?:/\w[\w.-]*)*)/?")


def checkpoint_folder(name: str) -> Path:
    """The folder of the checkpoint called `name`, downloaded if need be with the companions of an original checkpoint.

    Raises DemonError `E_NO_CHECKPOINT`.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    repository, inside = _split(name)
    return _fetch(repository, [inside, *COMPANIONS] if inside else [], inside)


def companions_folder(name: str) -> Path:
    """The folder called `name` that holds a codec and a text encoder. Raises DemonError `E_NO_CHECKPOINT`."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    repository, inside = _split(name)
    return _fetch(repository, [f"{inside}/{part}".lstrip("/") for part in COMPANIONS], inside)


def _split(name: str) -> tuple[str, str]:
    """A hub's name as the repository and the folder in it, which may be empty."""
    match = HUB_NAME.fullmatch(name)
    if match is None:
        raise DemonError(
            "E_NO_CHECKPOINT",
            f"there is no checkpoint folder {name}; use embedded, a folder, or owner/repository[/folder] of a hub",
        )
    return match[1], match[2].strip("/")


def _fetch(repository: str, folders: Sequence[str], inside: str) -> Path:
    """The folder `inside` of a repository; everything in `folders`, or in the repository if none are named, is there."""
    patterns = [f"{folder}/{file}" for folder in folders for file in FILES] or list(FILES)
    try:
        cached = Path(
            snapshot_download(
                repository, allow_patterns=patterns, ignore_patterns=LANGUAGE_MODELS, local_files_only=True
            )
        )
        if (cached / inside).is_dir():
            return cached / inside
    except (OSError, ValueError):
        pass  # not in the cache, or not all of it: the network decides
    try:
        HfApi().repo_info(repository, timeout=PROBE_SECONDS)  # a download alone waits for a dead network for ever
        folder = Path(snapshot_download(repository, allow_patterns=patterns, ignore_patterns=LANGUAGE_MODELS)) / inside
    except (OSError, ValueError, HTTPError) as error:
        raise DemonError(
            "E_NO_CHECKPOINT",
            f"{repository} is neither a local folder nor in the local cache, and cannot be downloaded: {error}",
        ) from error
    if not folder.is_dir():
        raise DemonError("E_NO_CHECKPOINT", f"{repository} has no folder {inside}")
    return folder
