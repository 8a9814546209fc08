# SPDX-License-Identifier: Apache-2.0
"""Which TensorRT engines there are, where they lie, and which of them are to be built anew."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from diffusers.models import AutoencoderOobleck

from engine_server.model.checkpoint_files import EMBEDDED
from engine_server.model.layouts import read_layout
from engine_server.model.recipes import RECIPES
from shared_protocol.errors import DemonError
from trt_engines import build_report, calibration
from trt_engines.build_plan import needed
from trt_engines.build_report import Built, seconds_of
from trt_engines.calibration import SHIPPED
from trt_engines.engine_folder import ENGINE, METADATA, EngineFolder, file_hash
from trt_engines.engine_kinds import (
    DURATIONS_S,
    ModelShape,
    build_command,
    decoder_kind,
    encode_kind,
    kinds_to_build,
    window_decode_kind,
)
from trt_engines.metadata import SCHEMA, Machine, Metadata, other_machine, sizes_of
from trt_engines.profiles import Span
from trt_engines.sizes import disk_bytes, engine_bytes, model_shape, weights_of
from trt_engines.unfinished import PREFIX

TWO_B = ModelShape("", 1920)
XL = ModelShape("xl", 1920)
HASH = "5f" * 32
HERE = Machine("tensorrt_rtx", "1.7.1", "SM90", "NVIDIA H200", "575.57")


def refused(call, *arguments, **named):
    with pytest.raises(DemonError) as raised:
        call(*arguments, **named)
    return raised.value


@pytest.fixture
def folder(tmp_path):
    return EngineFolder(tmp_path / "engines", "ACE-Step/turbo", HASH)


def publish(folder, kind, *, content=b"engine", machine=HERE, recipe=None):
    with folder.unfinished() as place:
        built = place / kind.name
        built.mkdir()
        (built / ENGINE).write_bytes(content)
        note = Metadata(
            schema=SCHEMA,
            component=kind.component,
            name=kind.name,
            precision=kind.precision,
            is_refittable=kind.is_refittable,
            recipe=recipe or str(RECIPES[kind.precision]),
            calibration_hash=folder.calibration_hash(kind),
            machine=machine,
            checkpoint=folder.checkpoint,
            checkpoint_hash=folder.checkpoint_hash,
            onnx_hash="00" * 32,
            inputs=sizes_of(kind.axes),
            engine_hash=file_hash(built / ENGINE),
            engine_bytes=len(content),
            seconds=1.5,
            built_at=build_report.now(),
        )
        folder.publish(kind, built, note)
    return note


def test_names_say_what_distinguishes_engines():
    names = [kind.name for kind in kinds_to_build(TWO_B, durations_s=DURATIONS_S)]
    assert names[:3] == ["decoder_mixed_b8_60s", "decoder_mixed_b8_120s", "decoder_mixed_b8_240s"]
    assert {"vae_decode_fp16_3to30s", "vae_decode_fp16_1s_fixed", "vae_decode_fp16_60s", "vae_encode_fp16_240s"} < set(
        names
    )
    assert len(set(names)) == len(names)
    assert decoder_kind(XL, 60, is_refittable=True).name == "decoder_xl_mixed_refit_b4_60s"
    for precision in RECIPES:
        assert decoder_kind(TWO_B, 60, precision=precision).name == f"decoder_{precision}_b8_60s"


def test_every_engine_takes_what_is_asked_of_it():
    assert window_decode_kind().axes["latents"][2] == Span(25, 25, 25)
    for duration in DURATIONS_S:
        axes = decoder_kind(TWO_B, duration).axes
        assert axes["hidden_states"][1] == axes["context_latents"][1] == Span(32, 1500, 25 * duration)
        assert axes["encoder_mask"][1].most >= 2048  # the longest lyrics
        assert axes["timestep"][0].most == 8
        assert encode_kind(TWO_B, duration).axes["audio"][2].most == 48_000 * duration
    assert decoder_kind(XL, 60).axes["timestep"][0].most == 4


def test_what_is_asked_for_is_built():
    assert {kind.component for kind in kinds_to_build(TWO_B, has_vae=False)} == {"decoder"}
    assert {kind.component for kind in kinds_to_build(TWO_B, has_decoder=False)} == {"vae_encode", "vae_decode"}
    assert {kind.component for kind in kinds_to_build(replace(TWO_B, hop_samples=None))} == {"decoder"}
    with pytest.raises(ValueError, match="90 s"):
        kinds_to_build(TWO_B, durations_s=(60, 90))


def reason(folder, kind, machine=HERE, **forced):
    """Why it is to be built; empty if it is up to date."""
    (one,) = needed(folder, [kind], machine, **forced)
    return one.reason


def test_an_engine_that_was_built_here_is_up_to_date_and_a_new_one_takes_its_place(folder):
    kind = decoder_kind(TWO_B, 60)
    assert reason(folder, kind) == "not built yet"
    publish(folder, kind)
    assert reason(folder, kind) == ""
    assert reason(folder, kind, is_forced=True) == "asked for"
    assert folder.engine(kind).read_bytes() == b"engine"
    assert [child.name for child in folder.path.iterdir()] == [kind.name]
    publish(folder, kind, content=b"another")
    assert folder.engine(kind).read_bytes() == b"another"
    assert [child.name for child in folder.path.iterdir()] == [kind.name]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("library_version", "10.9", "built by version 1.7.1, here 10.9"),
        ("gpu", "NVIDIA A100", "built for NVIDIA H200, here NVIDIA A100"),
        ("compute_capability", "SM80", "compute capability SM90, here SM80"),
        ("driver", "600", "built with driver 575.57, here 600"),
        ("library", "tensorrt", "built by tensorrt_rtx, here tensorrt"),
    ],
)
def test_an_engine_of_another_machine_is_neither_loaded_nor_up_to_date(folder, field, value, words):
    kind = window_decode_kind()
    note = publish(folder, kind)
    other = msgspec.structs.replace(HERE, **{field: value})
    (said,) = other_machine(note, other)
    assert words in said
    assert reason(folder, kind, other) == "built for SM90 by tensorrt_rtx 1.7.1"


def test_an_engine_that_was_built_ahead_of_time_suits_every_gpu_of_its_kinds(folder):
    note = publish(folder, window_decode_kind(), machine=Machine("tensorrt_rtx", "1.7.1", "SM89,SM90"))
    assert other_machine(note, HERE) == []
    (said,) = other_machine(note, msgspec.structs.replace(HERE, compute_capability="SM8"))
    assert "SM89,SM90, here SM8" in said


def test_an_engine_of_other_weights_or_shapes_is_built_anew(folder):
    kind = decoder_kind(TWO_B, 60)
    publish(folder, kind)
    other = replace(folder, checkpoint_hash=HASH[:12] + "0" * 52)
    assert "checkpoint 5f5f5f5f5f5f, here 5f5f5f5f5f5f" in reason(other, kind)
    wider = replace(kind, axes=decoder_kind(TWO_B, 120).axes)
    assert "built for sizes" in reason(folder, wider)


def test_an_engine_of_another_recipe_of_that_name_is_built_anew(folder):
    kind = decoder_kind(TWO_B, 60)
    publish(folder, kind, recipe="trunk bf16; layers.* fp16")
    assert "by the recipe trunk bf16; layers.* fp16, here trunk bf16; time_embed" in reason(folder, kind)


def test_an_fp8_engine_of_another_calibration_is_built_anew(folder):
    kind = decoder_kind(TWO_B, 60, precision="fp8")
    error = refused(folder.calibration_hash, kind)
    assert error.code == "E_CALIBRATION"
    assert "run: demon engines calibrate --checkpoint ACE-Step/turbo" in error.message
    folder.path.mkdir(parents=True)
    folder.own_calibration.write_bytes(b"{}")
    assert publish(folder, kind).calibration_hash == file_hash(folder.calibration)
    assert reason(folder, kind) == ""
    folder.own_calibration.write_bytes(b"{ }")
    assert "built by the calibration" in reason(folder, kind)
    mixed = decoder_kind(TWO_B, 60)
    assert publish(folder, mixed).calibration_hash is None
    assert reason(folder, mixed) == ""


def test_the_embedded_checkpoint_comes_with_a_calibration_which_the_users_own_comes_before(tmp_path):
    folder = EngineFolder(tmp_path, EMBEDDED, HASH)
    assert folder.calibration == SHIPPED
    assert SHIPPED.is_file()
    folder.path.mkdir()
    folder.own_calibration.write_bytes(b"{}")
    assert folder.calibration == folder.own_calibration


@pytest.mark.parametrize("damage", ["truncated", "gone", "no note", "half a note", "note of another kind"])
def test_a_damaged_engine_is_built_anew(folder, damage):
    kind = decoder_kind(TWO_B, 60)
    publish(folder, kind)
    engine, note = folder.engine(kind), folder.path / kind.name / METADATA
    match damage:
        case "truncated":
            engine.write_bytes(b"engin")
        case "gone":
            engine.unlink()
        case "no note":
            note.unlink()
        case "half a note":
            note.write_bytes(note.read_bytes()[:50])
        case "note of another kind":
            note.write_bytes(b'{"schema": "one"}')
    expected = {"truncated": "is not what was built", "gone": "is not what was built", "no note": "not built yet"}
    assert expected.get(damage, "cannot be read") in reason(folder, kind)


@pytest.mark.parametrize("stop", [OSError("no space left"), KeyboardInterrupt()], ids=["full", "interrupted"])
def test_what_stops_an_engine_on_its_way_to_its_place_leaves_the_old_one(folder, monkeypatch, stop):
    kind = decoder_kind(TWO_B, 60)
    publish(folder, kind)
    rename = Path.rename

    def stopped(source, target):
        if target == folder.path / kind.name and (source / ENGINE).read_bytes() == b"another":
            raise stop
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(DemonError if isinstance(stop, OSError) else KeyboardInterrupt) as raised:
        publish(folder, kind, content=b"another")
    assert isinstance(stop, KeyboardInterrupt) or raised.value.code == "E_OUTPUT"
    assert folder.engine(kind).read_bytes() == b"engine"
    assert [child.name for child in folder.path.iterdir()] == [kind.name]


def test_a_place_that_cannot_be_written_is_said_so(tmp_path):
    (tmp_path / "engines").write_bytes(b"a file")
    error = refused(publish, EngineFolder(tmp_path / "engines", "a", HASH), window_decode_kind())
    assert error.code == "E_OUTPUT"


def test_a_build_that_fails_leaves_nothing(folder):
    kind = decoder_kind(TWO_B, 60)
    publish(folder, kind)

    def interrupted():
        with folder.unfinished() as place:
            (place / ENGINE).write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [child.name for child in folder.path.iterdir()] == [kind.name]
    assert folder.engine(kind).read_bytes() == b"engine"


def test_what_a_killed_build_or_export_has_left_is_swept_and_what_another_builds_is_not(folder):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    folder.onnx.mkdir(parents=True)
    for place in (folder.path, folder.onnx):
        for process in (ended.pid, os.getpid()):
            (place / f"{PREFIX}{process}-x").mkdir()
    assert folder.sweep() == [f"{PREFIX}{ended.pid}-x"] * 2
    for place in (folder.path, folder.onnx):
        assert [child.name for child in place.glob(f"{PREFIX}*")] == [f"{PREFIX}{os.getpid()}-x"]


def test_what_a_build_took_is_remembered_by_checkpoint_gpu_and_library(tmp_path):
    def line(status, seconds, gpu="H200", engine="decoder_bf16_b8_60s", checkpoint="5f5f"):
        took = Built(build_report.now(), checkpoint, engine, gpu, "tensorrt 10", status, seconds, 3000.0)
        build_report.append(tmp_path, took)

    def asked(gpu="H200", checkpoint="5f5f"):
        return seconds_of(tmp_path, checkpoint, "decoder_bf16_b8_60s", gpu=gpu, library="tensorrt 10")

    assert asked() is None
    line("built", 300.0)
    line("failed", 2.0)
    line("built", 100.0, gpu="A100")
    line("built", 5.0, engine="vae_decode_fp16_60s")
    line("built", 7.0, checkpoint="00ff")  # another model has engines of the same names
    assert (asked(), asked("A100"), asked("T4"), asked(checkpoint="00ff")) == (300.0, 100.0, None, 7.0)
    with (tmp_path / build_report.NAME).open("a") as file:
        file.write("2026-11-23T00:00:00,5f5f,decoder_bf16_b8_60s,H2")
    assert asked() == 300.0


def test_a_report_that_cannot_be_written_fails_no_build(tmp_path, caplog):
    (tmp_path / build_report.NAME).mkdir()
    build_report.append(tmp_path, Built("", "", "", "", "", "built", 1.0, 1.0))
    assert "build_report.csv cannot be written" in caplog.text


def test_a_command_for_a_folder_with_a_space_can_be_pasted():
    said = build_command("my models/turbo", "decoder", 60, "mixed")
    assert shlex.split(said)[3:5] == ["--checkpoint", "my models/turbo"]
    assert shlex.split(calibration.command("my models/turbo"))[4] == "my models/turbo"


@pytest.fixture(scope="module")
def oobleck_layout(tiny_folder, tmp_path_factory):
    """The tiny checkpoint with a small codec of ACE-Step's class."""
    folder = tmp_path_factory.mktemp("layouts") / "oobleck"
    folder.mkdir()
    for part in tiny_folder.iterdir():
        if part.name != "vae":
            (folder / part.name).symlink_to(part)
    AutoencoderOobleck(
        encoder_hidden_size=128, downsampling_ratios=[2, 4], channel_multiples=[1, 1], decoder_channels=4
    ).save_pretrained(folder / "vae")
    return read_layout(folder)


def test_shapes_are_read_from_configurations(tiny_folder, oobleck_layout):
    assert model_shape(read_layout(tiny_folder)) == ModelShape("", None)
    assert model_shape(oobleck_layout) == ModelShape("", 8)


def test_weights_are_counted_from_headers(tiny, tiny_folder, oobleck_layout):
    layout, kind = read_layout(tiny_folder), decoder_kind(TWO_B, 60)
    count = sum(weight.numel() for weight in tiny.transformer.state_dict().values())
    assert weights_of(layout, kind) == count
    assert engine_bytes(count, kind) == 2 * count
    assert disk_bytes(count, kind) == 6 * count
    codec = AutoencoderOobleck.from_pretrained(oobleck_layout.vae)
    decoder = sum(weight.numel() for weight in codec.decoder.state_dict().values())
    assert weights_of(oobleck_layout, window_decode_kind()) == decoder
