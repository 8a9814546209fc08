# SPDX-License-Identifier: Apache-2.0
"""What was compiled outlives its process, and damage to it costs time and a line in the log, and nothing else."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from engine_server.model.compile_cache import LIST, LOCK, TRITONS, VARIABLE, CompileCache

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
PROGRAM = """
import logging, sys, torch
from torch._dynamo.utils import counters
from engine_server.model.compile_cache import CompileCache
from engine_server.model.compiled import CompiledVelocity

logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
compiled = CompiledVelocity(lambda x: torch.sin(x) * 2 + x.exp().sum())
x = torch.linspace(0, 1, 40)
with torch.no_grad(), CompileCache(torch.device("cpu")).compiling():
    out = compiled(x)
torch.testing.assert_close(out, torch.sin(x) * 2 + x.exp().sum())
inductor = counters["inductor"]
print("hits", inductor["fxgraph_cache_hit"], "misses", inductor["fxgraph_cache_miss"])
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    for variable in (VARIABLE, TRITONS):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return CompileCache(CPU)


def listed(cache):
    return json.loads((cache.folder / LIST).read_bytes())


def compile_in_a_process(home):
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env={**environment, "XDG_CACHE_HOME": str(home)}, text=True,
        capture_output=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_second_process_finds_what_the_first_compiled_and_damage_is_told_of_and_mended(cache, tmp_path):
    assert "hits 0 misses 1" in compile_in_a_process(tmp_path)
    assert "hits 1 misses 0" in compile_in_a_process(tmp_path)
    before = listed(cache)
    assert any(name.endswith(".so") for name in before)
    for name in before:
        path = cache.folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    told = compile_in_a_process(tmp_path)
    assert f"{len(before)} compiled files" in told
    assert "compiling anew" in told
    assert "hits 0 misses 1" in told
    assert "hits 1 misses 0" in compile_in_a_process(tmp_path)


def compile_half(cache):
    with cache.compiling():
        (cache.folder / "half.so").write_text("ha")
        raise OSError("the compiler was killed")


def test_what_a_killed_process_left_is_removed_and_what_is_whole_stays(cache):
    with cache.compiling():
        assert os.environ[VARIABLE] == str(cache.folder)
        (cache.folder / "whole.so").write_text("whole")
    assert os.environ.get(VARIABLE) != str(cache.folder)
    with pytest.raises(OSError, match="killed"):
        compile_half(cache)
    assert list(listed(cache)) == ["whole.so"]
    with cache.compiling():
        assert (cache.folder / "whole.so").exists()
        assert not (cache.folder / "half.so").exists()


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_damaged_list_is_told_of_and_empties_the_folder(cache, content, caplog):
    with cache.compiling():
        (cache.folder / "whole.so").write_text("whole")
    (cache.folder / LIST).write_text(content)
    with cache.compiling():
        assert not (cache.folder / "whole.so").exists()
    assert "is damaged: everything is compiled anew" in caplog.text


def test_who_compiles_waits_for_another_process_that_does(cache, caplog):
    with cache.compiling():
        pass
    order = []

    def compile_here():
        with cache.compiling():
            order.append("here")

    with caplog.at_level("INFO"), (cache.folder / LOCK).open("rb") as held_elsewhere:
        fcntl.flock(held_elsewhere, fcntl.LOCK_EX)
        thread = threading.Thread(target=compile_here)
        thread.start()
        while "another process compiles" not in caplog.text:
            assert thread.is_alive()
            thread.join(0.01)
        order.append("elsewhere")
    thread.join()
    assert order == ["elsewhere", "here"]


def test_a_folder_that_cannot_be_used_is_told_of_and_does_not_stop_anything(cache, tmp_path, caplog):
    (tmp_path / "demon-bridge").write_text("a file in the place of the folder")
    with cache.compiling():
        assert str(tmp_path) not in os.environ.get(VARIABLE, "")
    assert "cannot be used" in caplog.text


def test_the_users_own_folder_is_left_alone(cache, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "own"))
    with cache.compiling():
        assert os.environ[VARIABLE] == str(tmp_path / "own")
    assert not cache.folder.exists()


def test_tritons_files_are_kept_with_the_others_and_nobody_elses_come_there(cache, tmp_path, monkeypatch):
    """torch sets its variable at the first kernel of the process, wherever that is, for good."""
    defaults = Path(default_cache_dir()) / "triton" / "0"
    for before in (None, str(defaults)):
        if before is not None:
            monkeypatch.setenv(TRITONS, before)
        with cache.compiling():
            assert Path(os.environ[TRITONS]).is_relative_to(cache.folder)
        assert os.environ.get(TRITONS) == before
    monkeypatch.setenv(TRITONS, str(tmp_path / "own"))
    with cache.compiling():
        assert os.environ[TRITONS] == str(tmp_path / "own")


def test_decoders_of_two_devices_in_one_process_compile_one_after_the_other(cache, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    other, seen = CompileCache(torch.device("cuda:0")), []

    def compile_there():
        with other.compiling():
            seen.append(os.environ[VARIABLE])

    thread = threading.Thread(target=compile_there)
    with cache.compiling():
        thread.start()
        thread.join(0.2)
        assert os.environ[VARIABLE] == str(cache.folder)
        assert not seen
    thread.join()
    assert seen == [str(other.folder)]
    assert VARIABLE not in os.environ


def test_the_folder_names_torch_and_the_processor(cache):
    assert cache.folder.name.startswith(f"torch-{torch.__version__}-cpu-")
