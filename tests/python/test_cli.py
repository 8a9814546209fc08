# SPDX-License-Identifier: Apache-2.0
"""The `demon` command as a user meets it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from track_rig import write_lora
from typer.testing import CliRunner

from engine_server.cli import app, ctrl_c
from engine_server.tracks.receipt import hash_floats
from engine_server.tracks.references import reference_hash

DEMON = [sys.executable, "-m", "engine_server.cli"]


def demon_process(*arguments, timeout=300):
    """The command in a process of its own, whose first ten seconds are imports."""
    return subprocess.run([*DEMON, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, check=False)


def demon(*arguments):
    """The command in this process."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def tone(path, *, rate=48_000, seconds=2.0, channels=2, subtype="PCM_16"):
    t = np.arange(int(rate * seconds)) / rate
    soundfile.write(path, np.stack([0.3 * np.sin(2 * np.pi * 220 * t)] * channels, axis=1), rate, subtype=subtype)
    return path


def test_two_renders_have_the_same_bits_and_the_receipt_tells(tiny_folder, tmp_path):
    source = tone(tmp_path / "in.wav")
    (tmp_path / "velocity.csv").write_text("seconds,value\n0,1\n1,0.5\n")
    arguments = ["render", source, "--model", tiny_folder, "--lane", "denoise=0.6", "--prompt", "strings", "--seed", 7]
    arguments += ["--lane", f"velocity_scale={tmp_path / 'velocity.csv'}"]
    receipts = []
    for name in ("a.wav", "b.wav"):
        done = demon_process(*arguments, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
        receipts.append(json.loads((tmp_path / name).with_suffix(".receipt.json").read_text()))
    assert receipts[0] == receipts[1]
    audio, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert rate == 48_000
    assert soundfile.info(tmp_path / "a.wav").subtype == "FLOAT"
    assert receipts[0]["result_sha256"] == hash_floats(audio.T)
    assert receipts[0]["lanes"]["velocity_scale"] == "0.5 to 1"
    other = demon(*arguments, "--out", tmp_path / "c.wav", "--lane", "denoise=0.61")
    assert other.exit_code == 0
    changed = json.loads((tmp_path / "c.receipt.json").read_text())
    differing = {key for key in changed if changed[key] != receipts[0][key]}
    assert differing == {"lanes", "lanes_sha256", "result_sha256"}


@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (48_000, 1), (44_100, 1)])
def test_other_rates_and_mono_work(tiny_folder, tmp_path, rate, channels):
    source = tone(tmp_path / "in.wav", rate=rate, channels=channels)
    done = demon("render", source, "--model", tiny_folder, "--out", tmp_path / "out.wav")
    assert done.exit_code == 0, done.stderr
    info = soundfile.info(tmp_path / "out.wav")
    assert (info.samplerate, info.channels, info.frames) == (rate, 2, soundfile.info(source).frames)


def write_empty(path):
    soundfile.write(path, np.zeros((0, 2)), 48_000)


def write_text(path):
    path.write_text("not a sound")


def write_surround(path):
    tone(path, channels=6)


def write_odd_rate(path):
    tone(path, rate=22_051)


def write_nan(path):
    soundfile.write(path, np.full((100, 2), np.nan), 48_000, subtype="FLOAT")


@pytest.mark.parametrize(
    ("write", "code"),
    [
        (lambda path: None, "E_SOURCE_UNREADABLE"),
        (write_text, "E_SOURCE_UNREADABLE"),
        (write_empty, "E_SOURCE_EMPTY"),
        (write_surround, "E_SOURCE_CHANNELS"),
        (write_odd_rate, "E_SAMPLE_RATE"),
        (write_nan, "E_NOT_FINITE"),
    ],
)
def test_sources_that_cannot_be_rendered_are_named(tmp_path, write, code):
    write(tmp_path / "in.wav")
    done = demon("render", tmp_path / "in.wav", "--out", tmp_path / "out.wav")
    assert done.exit_code == 1
    assert code in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.wav").exists()


def test_wrong_options_are_named(tmp_path, tiny_folder):
    source = tone(tmp_path / "in.wav")
    for option, code in (
        ("--lane=denoise=2", "E_LANE_RANGE"),
        ("--solver=heun", "E_FIELD"),
        ("--bpm=10", "E_FIELD"),
        (f"--prompt={'x' * 5000}", "E_FIELD"),
        ("--model=nowhere", "E_NO_CHECKPOINT"),
    ):
        done = demon("render", source, "--out", tmp_path / "out.wav", option)
        assert done.exit_code == 1
        assert code in done.stderr
    missing = demon("render", source, "--model", tiny_folder, "--out", tmp_path / "no" / "such" / "folder.wav")
    assert missing.exit_code == 1
    assert "E_OUTPUT" in missing.stderr


def test_a_command_that_was_interrupted_does_not_end_the_next_one_of_its_process(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ctrl_c, "came", True)
    done = demon("render", tone(tmp_path / "in.wav"), "--model", tiny_folder, "--out", tmp_path / "out.wav")
    assert done.exit_code == 0


def cpu_seconds(process):
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_ctrl_c_that_meets_a_destructor_is_kept_and_prints_nothing(capsys):
    class Interrupted:
        def __del__(self):
            ctrl_c.take()

    with ctrl_c.handled():
        gone = Interrupted()
        del gone
        with pytest.raises(KeyboardInterrupt):
            ctrl_c.check()
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(sys.platform != "linux", reason="reads a process's time from Linux's /proc")
@pytest.mark.parametrize("after_s", [2.5, 20.0])  # of CPU: during the imports, and while it renders
def test_ctrl_c_ends_a_render_cleanly_and_leaves_no_file(tiny_folder, tmp_path, after_s):
    source = tone(tmp_path / "in.wav", seconds=600)
    process = subprocess.Popen(
        [*DEMON, "render", str(source), "--model", str(tiny_folder), "--out", str(tmp_path / "out.wav")],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while cpu_seconds(process) < after_s:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode in (130, -signal.SIGINT)  # the latter where Python meets it in C code; a shell says 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["in.wav"]


def test_serve_refuses_to_leave_this_machine_without_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    done = demon_process("serve", "--endpoint", "tcp://0.0.0.0:47800")
    assert done.returncode == 1
    assert "E_BIND" in done.stderr


def test_a_render_of_everything_at_once_is_in_the_receipt(tiny_folder, tiny, tmp_path):
    source, reference = tone(tmp_path / "in.wav"), tone(tmp_path / "ref.wav", rate=44_100)
    (tmp_path / "loras").mkdir()
    write_lora(tmp_path / "loras" / "choir.safetensors", tiny)
    arguments = ["render", source, "--model", tiny_folder, "--loras", tmp_path / "loras", "--lora", "choir"]
    arguments += ["--lane", "lora_1=1", "--timbre", reference, "--structure", reference, "--bpm", 90, "--meter", 3]
    arguments += ["--prompt-b", "brass", "--lane", "prompt_blend=0.5"]
    receipts = {}
    for name, more in {"stream": [], "commit": ["--loop", "--rounds", 2, "--lane", "feedback=0.5"]}.items():
        done = demon(*arguments, *more, "--out", tmp_path / f"{name}.wav")
        assert done.exit_code == 0, done.stderr
        receipts[name] = json.loads((tmp_path / f"{name}.receipt.json").read_text())
    audio, rate = soundfile.read(reference, dtype="float32")
    for kind, receipt in receipts.items():
        config = receipt["config"]
        assert receipt["kind"] == kind
        assert config["timbre"] == config["structure"] == reference_hash(audio.T, rate)
        assert config["loras"] == [hashlib.sha256((tmp_path / "loras" / "choir.safetensors").read_bytes()).hexdigest()]
        assert (config["bpm"], config["meter"], config["prompt_b"]) == (90, 3, "brass")
    assert receipts["commit"]["lanes"]["feedback"] == "0.5"
    assert receipts["commit"]["config"]["feedback_rounds"] == 2
    unknown = demon(*arguments, "--lora", "violin", "--out", tmp_path / "x.wav")
    assert unknown.exit_code == 1
    assert "E_LORA" in unknown.stderr
