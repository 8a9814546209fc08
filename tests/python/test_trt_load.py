# SPDX-License-Identifier: Apache-2.0
"""Engines by their files: what is refused before TensorRT sees it, each time with the command that builds a right one.

The engine is a real one, built ahead of time for GPUs that need not be here.
"""

from __future__ import annotations

import hashlib

import msgspec
import pytest
import torch
from trt_rig import built_decoder, decoder

from shared_protocol.errors import DemonError
from trt_engines import tensorrt_library
from trt_engines.engine_file import Wanted, find_engine
from trt_engines.machine_here import machine_here
from trt_engines.metadata import Machine, read_metadata, write_metadata

pytest.importorskip("onnx", reason="onnx is not installed: pip install --editable '.[trt]'")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install --editable '.[trt]'")
try:
    LIBRARY = tensorrt_library.load_tensorrt()
except DemonError as error:
    pytest.skip(str(error), allow_module_level=True)

from trt_engines.load_engine import load_engine

HASH = "5f" * 32
WANTED = Wanted("decoder", "ACE-Step/turbo", HASH)
BUILD = "demon engines build --checkpoint ACE-Step/turbo --decoder-only --duration 60 --precision fp32"
HERE = Machine(LIBRARY.name, LIBRARY.version, "SM89", "NVIDIA GeForce RTX 4090", "CUDA 13.0")
NO_GPU = "needs a CUDA GPU of SM89 or SM120, such as an RTX 4090 or 5090"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return built_decoder(tmp_path_factory.mktemp("engine"), decoder(), checkpoint_hash=HASH)


@pytest.fixture
def folder(built, tmp_path):
    """A copy that a test may damage."""
    for file in built.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def refused(code, call, *arguments):
    with pytest.raises(DemonError) as raised:
        call(*arguments)
    assert raised.value.code == code
    return raised.value.message


def change(folder, **fields):
    path = folder / "metadata.json"
    write_metadata(path, msgspec.structs.replace(read_metadata(path), **fields))


def test_an_engine_is_found_by_its_file_or_its_folder(built):
    by_folder, by_file = find_engine(built, WANTED), find_engine(str(built / "engine.plan"), WANTED)
    assert by_folder == by_file
    by_file.check(HERE)
    assert len(by_file.read()) == by_file.note.engine_bytes > 100_000
    assert str(by_file.span("hidden_states", 1)) == "32 / 40 / 120"


def test_one_that_is_not_there_is_told_with_what_builds_it(tmp_path):
    said = refused("E_ENGINE_NOT_BUILT", find_engine, tmp_path / "none.plan", WANTED)
    assert said.endswith(BUILD.replace("fp32", "mixed"))
    assert "none.plan" in said


@pytest.mark.parametrize("content", [None, b"{", b'{"schema": 1}'], ids=["missing", "cut", "of old"])
def test_one_without_a_readable_note_is_not_loaded(folder, content):
    note = folder / "metadata.json"
    note.unlink() if content is None else note.write_bytes(content)
    assert refused("E_ENGINE_FILE", find_engine, folder, WANTED).endswith("--precision mixed --force-rebuild")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"checkpoint_hash": "6a" * 32}, "built of the checkpoint 6a6a6a6a6a6a, here 5f5f5f5f5f5f"),
        ({"schema": 1}, "its schema is 1, here 2"),
        ({"recipe": "an older one"}, "built by the recipe an older one"),
    ],
)
def test_one_of_something_else_is_not_loaded(folder, fields, message):
    change(folder, **fields)
    said = refused("E_ENGINE_STALE", find_engine, folder, WANTED)
    assert message in said
    assert said.endswith(BUILD)


def test_a_decoder_in_the_place_of_a_codec_is_told(folder):
    wanted = Wanted("vae_decode", "ACE-Step/turbo", HASH)
    said = refused("E_ENGINE_STALE", find_engine, folder, wanted)
    assert "its component is decoder, here vae_decode" in said
    assert said.endswith("--vae-only --duration 60")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"library": "tensorrt"}, f"built by {LIBRARY.name}, here tensorrt"),
        ({"library_version": "1.0"}, f"built by version {LIBRARY.version}, here 1.0"),
        ({"compute_capability": "SM90"}, "built for compute capability SM89,SM120, here SM90"),
    ],
)
def test_one_for_another_machine_is_not_loaded(built, fields, message):
    file = find_engine(built, WANTED)
    said = refused("E_ENGINE_STALE", load_engine, file, LIBRARY, msgspec.structs.replace(HERE, **fields))
    assert message in said
    assert said.endswith(BUILD)


def test_a_truncated_one_is_not_loaded(folder):
    file, engine = find_engine(folder, WANTED), folder / "engine.plan"
    engine.write_bytes(engine.read_bytes()[:-100])
    said = refused("E_ENGINE_FILE", load_engine, file, LIBRARY, HERE)
    assert f"has {file.note.engine_bytes - 100} bytes, and {file.note.engine_bytes} were built" in said
    assert said.endswith(f"{BUILD} --force-rebuild")


def test_one_with_a_changed_byte_is_not_loaded(folder):
    file, engine = find_engine(folder, WANTED), folder / "engine.plan"
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(content)
    assert "its bytes are others" in refused("E_ENGINE_FILE", load_engine, file, LIBRARY, HERE)


def test_what_tensorrt_refuses_is_told_in_its_words(folder):
    """Whole by its note, and no engine."""
    content = b"no engine" * 100
    (folder / "engine.plan").write_bytes(content)
    change(folder, engine_bytes=len(content), engine_hash=hashlib.sha256(content).hexdigest())
    said = refused("E_ENGINE_LOAD", load_engine, find_engine(folder, WANTED), LIBRARY, HERE)
    assert "engine.plan" in said
    assert "Serialization" in said
    assert f"run: {BUILD} --force-rebuild" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver here")
def test_without_a_driver_a_whole_engine_is_refused_by_tensorrt_itself(built):
    said = refused("E_ENGINE_LOAD", load_engine, find_engine(built, WANTED), LIBRARY, HERE)
    assert "CUDA" in said
    assert "use the eager backend" in said


def test_a_machine_without_a_gpu_says_what_to_take_instead(monkeypatch):
    assert "take device cuda, or the eager backend" in refused("E_DEVICE", machine_here, LIBRARY, torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no driver" in refused("E_DEVICE", machine_here, LIBRARY, torch.device("cuda:0"))


@pytest.mark.skipif(
    not (torch.cuda.is_available() and torch.cuda.get_device_capability() in ((8, 9), (12, 0))), reason=NO_GPU
)
def test_an_engine_loads_on_its_gpu(built):
    machine = machine_here(LIBRARY, torch.device("cuda:0"))
    engine = load_engine(find_engine(built, WANTED), LIBRARY, machine)
    assert {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)} >= {"hidden_states", "velocity"}
