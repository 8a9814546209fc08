# SPDX-License-Identifier: Apache-2.0
"""The log: lines for people and for machines, and nothing private in either."""

from __future__ import annotations

import io
import json
import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_server.serve import logs
from engine_server.serve.credentials import Credentials
from engine_server.serve.keys import make_pair
from engine_server.serve.logs import HIDDEN, about, clean, configure_logging, hide, short_id
from shared_protocol import messages as m
from shared_protocol.errors import DemonError

log = logging.getLogger("demon.test")
PROMPT, PROMPT_B = "my secret 'song', \"unheard\"", "and the other\none"
CONFIG = m.make_config(PROMPT, 7, prompt_b=PROMPT_B)
HELLO = m.Hello(3, "DAW", 48_000, "stream", 150, 250, "none", [], CONFIG)


@pytest.fixture
def lines():
    """Configure the log; what it said since."""
    root, demon = logging.getLogger(), logging.getLogger("demon")
    kept, levels = root.handlers[:], (root.level, demon.level)
    stream = io.StringIO()

    def configure(format, level="INFO"):
        configure_logging(level, format, stream=stream)
        return lambda: stream.getvalue().removesuffix("\n").split("\n")

    yield configure
    root.handlers[:] = kept
    root.setLevel(levels[0])
    demon.setLevel(levels[1])
    logs._secrets.clear()


def test_json_lines_have_every_field(lines):
    said = lines("json")
    log.warning("track %s: slow", "64a1b2c3d4e5.0", extra=about(depth=4, ratio=0.5, path=io, is_live=True, none=None))
    log.info("plain")
    first, second = map(json.loads, said())
    assert list(first) == ["time", "level", "logger", "message", "track", "code", "fields"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert (first["level"], first["logger"]) == ("warning", "demon.test")
    assert (first["message"], first["track"]) == ("track 64a1b2c3d4e5.0: slow", "64a1b2c3d4e5.0")
    assert first["fields"] == {"depth": 4, "ratio": 0.5, "path": str(io), "is_live": True, "none": None}
    assert (second["track"], second["code"], second["fields"]) == ("", "", {})


def test_codes_and_tracks_are_found_in_the_lines_of_today(lines):
    said = lines("json")
    error = DemonError("E_LIMIT", "too much")
    track = short_id(b"d" + bytes(range(16)))
    log.warning("track %s: %s", track, error)
    log.warning("E_BUSY: 3 connections closed")
    log.warning("something", extra=about(track="t", code="E_OTHER"))
    log.info("track %s left", f"{track}.12")
    found = [(line["track"], line["code"]) for line in map(json.loads, said())]
    assert found == [(track, "E_LIMIT"), ("", "E_BUSY"), ("t", "E_OTHER"), (f"{track}.12", "")]
    assert len(track) == 12


def test_text_lines_are_as_they_were_with_fields_behind(lines):
    said = lines("text")
    log.warning("track %s: %s", "64a1b2c3d4e5.0", DemonError("E_LIMIT", "too much"), extra=about(depth=4))
    (line,) = said()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING demon\.test: track 64a1b2c3d4e5\.0: E_LIMIT: too much depth=4",
        line,
    )


@pytest.mark.parametrize("format", logs.FORMATS)
def test_a_client_cannot_write_lines_of_its_own(lines, format):
    said = lines(format)
    for sign in ("\n", "\r", "\x1b[2J", "\u2028", "\x85", "\0"):
        log.info("client %s", f"DAW{sign}2025-01-31 WARNING demon.serve: all is lost", extra=about(name=f"x{sign}y"))
    assert len(said()) == 6
    assert all(sign not in "".join(said()) for sign in "\r\x1b\0")


@pytest.mark.parametrize("format", logs.FORMATS)
def test_neither_secrets_nor_prompts_are_logged_however_it_is_tried(lines, format):
    said = lines(format, "DEBUG")
    pair = make_pair()
    hide(pair.secret)
    credentials = Credentials("tcp://x:1", pair.public, pair.public, pair.secret)
    log.info("hello %s and %r", HELLO, CONFIG)
    log.info("hello " + repr(HELLO))
    log.info("%(hello)s", {"hello": HELLO})
    log.info("secret is %s", pair.secret)
    log.info("%r %s", credentials, pair)
    log.info("x", extra=about(prompt=PROMPT, config=CONFIG, secret=pair.secret, other=f"<{pair.secret}>"))
    log.info('{"prompt": %s, "prompt_b": %s}', json.dumps(PROMPT), json.dumps(PROMPT_B))
    log.info("too few %s %s", HELLO)
    try:
        raise ValueError(f"no such thing: {CONFIG!r} {pair.secret}") from DemonError(
            "E_FIELD", repr({"prompt": PROMPT})
        )
    except ValueError:
        log.exception("it failed with %s", HELLO)
    text = "\n".join(said())
    assert len(said()) >= 9
    for private in (pair.secret, "unheard", "and the other", "my secret"):
        assert private not in text
    assert HIDDEN in text
    assert "ValueError: no such thing" in text


@given(st.text(), st.sampled_from(["prompt", "prompt_b"]))
def test_no_prompt_survives_a_repr_of_its_configuration(prompt, name):
    mark = "Mark7"
    shown = clean(repr(m.make_config(**{name: mark + prompt + mark})))
    assert mark not in shown
    assert "seed=" in shown


def test_what_is_not_private_stays():
    for text in (
        "prompt_blend=0.5",
        "lane prompt_blend takes values from 0 to 1",
        "secretary='x'",
        "a prompt of 20 bytes",
    ):
        assert clean(text) == text


def test_a_traceback_begins_no_line_that_looks_like_another(lines):
    said = lines("text")
    try:
        raise ValueError("oh\n2025-01-31 WARNING demon.serve: all is lost")
    except ValueError:
        log.exception("track %s failed", "x")
    first, *others = said()
    assert first.endswith("track x failed")
    assert len(others) > 3
    assert all(line.startswith("    ") for line in others)


def test_libraries_say_warnings_only(lines):
    said = lines("text", "DEBUG")
    logging.getLogger("a.foreign.module").info("an address that is nobody else's business")
    logging.getLogger("a.foreign.module").warning("careful")
    log.debug("ours")
    assert [line.rpartition(" ")[2] for line in said()] == ["careful", "ours"]


@pytest.mark.parametrize(("level", "format"), [("LOUD", "text"), ("INFO", "xml")])
def test_wrong_settings_are_named(lines, level, format):
    with pytest.raises(DemonError, match="E_FIELD"):
        lines(format, level)


def test_a_second_configuration_takes_the_place_of_the_first(lines):
    lines("text")
    said = lines("json")
    log.info("once")
    assert len(said()) == 1


def test_short_texts_are_not_hidden_everywhere():
    with pytest.raises(ValueError, match="short"):
        hide("a")
