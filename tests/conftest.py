# SPDX-License-Identifier: Apache-2.0
"""What all tests share."""

from __future__ import annotations

import os

# Before torch is imported anywhere: spinning threads slow everything down on a shared machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

# Not on a GPU, also where there is one: what is tested there names it.
os.environ.setdefault("DEMON_DEVICE", "cpu")

import sys
import tempfile
from pathlib import Path

import hypothesis
import pytest

# No test is timed: a busy machine may take its time.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

HERE = Path(__file__).parent

# What plugins and engines keep of the user's (renders, settings, LoRAs) must neither be read nor written by tests.
_home = tempfile.TemporaryDirectory(prefix="demon-tests-")
os.environ["XDG_DATA_HOME"] = os.environ["XDG_CONFIG_HOME"] = os.environ["XDG_CACHE_HOME"] = _home.name
sys.path.insert(0, str(HERE / "python"))
sys.path.insert(0, str(HERE / "hosts"))


@pytest.fixture(autouse=True)
def same_threads():
    """Bits depend on the number of threads, and some commands set it for their process, which here is everybody's."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    yield
    if torch and torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Folder of a tiny checkpoint with random weights."""
    from tiny_checkpoint import build_tiny_checkpoint

    return build_tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    """The tiny checkpoint, loaded."""
    from engine_server.model.checkpoint import load_checkpoint

    return load_checkpoint(str(tiny_folder))


@pytest.fixture(scope="session")
def trained_folder():
    """Folder of the small trained checkpoint (`make model-small`)."""
    return HERE / "checkpoint"


@pytest.fixture(scope="session")
def fixtures():
    """Folder of the music that tests and demo use."""
    return HERE.parent / "fixtures"
