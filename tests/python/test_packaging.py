# SPDX-License-Identifier: Apache-2.0
"""The examples in packaging/ fit what they are of: commands, options, ports and files."""

from __future__ import annotations

import configparser
import json
import shlex
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from engine_server.cli import app
from engine_server.serve.endpoint import audio_endpoint, parse_endpoint
from engine_server.serve.handles import PLAYING_HANDLES
from shared_protocol import DEFAULT_ENDPOINT

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def unit():
    """The systemd unit, as far as no key comes twice."""
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str
    parser.read_string((PACKAGING / "demon-bridge.service").read_text(encoding="utf-8"))
    return parser


@pytest.fixture(scope="module")
def container():
    """The Containerfile's instructions, in order: each a word and the rest of its line."""
    text = (PACKAGING / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = (line.strip() for line in text.splitlines())
    return [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]


def parsed(words):
    """What `demon serve` makes of its arguments, without doing it. Raises a usage error for those that it does not have."""
    assert words[0] == "serve"
    return get_command(app).commands["serve"].make_context("serve", list(words[1:])).params


def test_demon_refuses_options_that_it_does_not_have():
    """Or the other tests would say nothing."""
    with pytest.raises(Exception, match="No such option"):
        parsed(["serve", "--endpiont", DEFAULT_ENDPOINT])


def test_the_unit_has_the_sections_that_systemd_knows_and_nothing_without_a_value(unit):
    assert unit.sections() == ["Unit", "Service", "Install"]
    lines = (PACKAGING / "demon-bridge.service").read_text(encoding="utf-8").splitlines()
    settings = [line for line in lines if line and line[0] not in "#["]
    assert all("=" in line for line in settings)
    assert len(settings) > 20


def test_the_unit_starts_a_server_that_demon_knows_how_to_start(unit):
    program, *words = shlex.split(unit["Service"]["ExecStart"])
    assert Path(program).name in PROJECT["project"]["scripts"]
    assert parse_endpoint(parsed(words)["endpoint"]).is_loopback, "it lets in nobody but this machine"
    assert int(unit["Service"]["LimitNOFILE"]) >= PLAYING_HANDLES


def test_the_unit_reloads_with_the_signal_that_a_server_takes(unit):
    assert shlex.split(unit["Service"]["ExecReload"])[1:] == ["-HUP", "$MAINPID"]
    assert "SIGHUP" in (ROOT / "engine_server" / "serve" / "serve_engine.py").read_text(encoding="utf-8")


def test_what_the_container_copies_is_there_and_is_all_that_is_installed(container):
    copied = [word.rstrip("/") for name, rest in container if name == "COPY" for word in rest.split()[:-1]]
    assert [word for word in copied if not (ROOT / word).exists()] == []
    wanted = {pattern.rstrip("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert {name for name in wanted if (ROOT / name).is_dir()} <= set(copied)
    assert PROJECT["project"]["readme"] in copied
    assert ("RUN", "pip install --no-cache-dir .") in container


def test_the_container_runs_demon_where_its_ports_are_open(container):
    instructions = dict(container)
    (program,) = json.loads(instructions["ENTRYPOINT"])
    assert program in PROJECT["project"]["scripts"]
    endpoint = parsed(json.loads(instructions["CMD"]))["endpoint"]
    ports = [str(parse_endpoint(where).port) for where in (endpoint, audio_endpoint(endpoint))]
    assert instructions["EXPOSE"].split() == ports
    assert ports[0] == str(parse_endpoint(DEFAULT_ENDPOINT).port)
