# SPDX-License-Identifier: Apache-2.0
"""SPEC.md cannot drift from the code: its tables are held against the messages, its codes against those raised, its bytes."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from transcript import parse_fields

import shared_protocol
from engine_server.serve import client, clients, server, sockets, worker
from engine_server.serve.limits import QUESTIONS_AT_ONCE, QUESTIONS_PER_S
from engine_server.tracks.track import MAX_FRAMES_HELD
from shared_protocol import messages as m
from shared_protocol.codec import encode
from shared_protocol.vectors.make import valid_messages

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "shared_protocol" / "SPEC.md").read_text(encoding="utf-8")
CLASSES = {cls.__name__.lower(): cls for cls in m.Message.__subclasses__()}
EXAMPLES = {type(packet.header).__name__.lower(): packet.header for _, packet, _, _ in reversed(list(valid_messages()))}
TOKEN = r"-?\d+(?:\^\d+)?(?:-\d+)?"
NOT_IN_THE_HEADER = {("hello", "rate"), ("reference", "rate")}
"""Checked by the server, with a code of its own."""
DEPENDENT = {("reference", "first"), ("reference", "count"), ("reference", "total")}
"""Their limits depend on one another."""


def section(number):
    return re.search(rf"^## {number}\. .*?(?=^## |\Z)", TEXT, re.M | re.S).group()


def tables():
    """(message or "config", rows of (field, type, range)) as the document has them."""
    text = section(3) + section(4)
    for name, body in re.findall(r"^### (\w+)\n(.*?)(?=^### |^## |\Z)", text, re.M | re.S):
        parts = body.split("*config*, the submission-time state")
        yield name, rows(parts[0])
        if len(parts) > 1:
            yield "config", rows(parts[1])


def rows(text):
    table = re.search(r"\| field \| type \| range \|\n\|---\|---\|---\|\n((?:\|.*\n)*)", text)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()] if table else []


TABLES = dict(tables())
ROWS = [(name, *row) for name, table in TABLES.items() for row in table]


def type_words(kind):
    """A field's type as the document names it."""
    match kind:
        case msgspec.inspect.IntType():
            return "int"
        case msgspec.inspect.FloatType():
            return "real"
        case msgspec.inspect.BoolType():
            return "bool"
        case msgspec.inspect.StrType() | msgspec.inspect.LiteralType():
            return "text"
        case msgspec.inspect.ListType():
            return f"list&lt;{type_words(kind.item_type)}&gt;"
        case msgspec.inspect.StructType():
            return "map"


def test_every_message_has_one_entry():
    assert sorted(name for name in TABLES if name != "config") == sorted(CLASSES)
    assert len(list(tables())) == len(TABLES)
    from_client = re.findall(r"^### (\w+)$", section(3), re.M)
    assert {CLASSES[name] for name in from_client} == set(m.FROM_CLIENT.__args__)


@pytest.mark.parametrize("name", TABLES)
def test_fields_have_the_order_and_types_of_the_code(name):
    fields = msgspec.inspect.type_info(m.Config if name == "config" else CLASSES[name]).fields
    written = [(field, kind) for field, kind, _ in TABLES[name]]
    in_code = [(f.name, type_words(f.type)) for f in fields]
    required = [(f.name, type_words(f.type)) for f in fields if f.required]
    assert written in (in_code, required), "a key that may be missing is described in section 2 or in the table"


def limits(text):
    """The limits that a cell begins with, or those of a position."""
    found = re.match(rf"(?:0 or )?({TOKEN})\.\.({TOKEN})", text)
    if not found:
        return -m.MAX_POSITION, m.MAX_POSITION
    return tuple(eval(word.replace("^", "**")) for word in found.groups())


def is_taken(name, field, value):
    """Whether a header with this value, and otherwise an example's, is accepted."""
    header = "hello" if name == "config" else name
    fields = msgspec.to_builtins(EXAMPLES[header])
    (fields["config"] if name == "config" else fields)[field] = value
    try:
        msgspec.msgpack.Decoder(CLASSES[header]).decode(msgspec.msgpack.encode(fields))
    except msgspec.ValidationError:
        return False
    return True


NUMBERS = [row for row in ROWS if row[2] in ("int", "real") and row[:2] not in NOT_IN_THE_HEADER]


@pytest.mark.parametrize("row", NUMBERS, ids=[f"{row[0]}.{row[1]}" for row in NUMBERS])
def test_numbers_have_the_limits_of_the_code(row):
    name, field, kind, text = row
    low, high = limits(text) if text != "3" else (1, 65535)
    step = 1 if kind == "int" else 0.5
    assert not is_taken(name, field, low - step)
    assert not is_taken(name, field, high + step)
    if (name, field) not in DEPENDENT:
        assert is_taken(name, field, low)
        assert is_taken(name, field, high)
    if text.startswith("0 or "):
        assert is_taken(name, field, 0)


TEXTS = [(*row, *map(int, found.groups())) for row in ROWS if (found := re.match(r"(\d+)\.\.(\d+) bytes", row[3]))]


@pytest.mark.parametrize("row", TEXTS, ids=[f"{row[0]}.{row[1]}" for row in TEXTS])
def test_texts_have_the_limits_of_the_code(row):
    name, field, kind, _, low, high = row
    assert kind == "text"
    assert is_taken(name, field, "x" * low)
    assert is_taken(name, field, "ä" * (high // 2))
    assert not is_taken(name, field, "x" * (high + 1))
    assert low == 0 or not is_taken(name, field, "")


@pytest.mark.parametrize("row", [row for row in ROWS if "hexadecimal" in row[3] and row[2] == "text"], ids=str)
def test_hashes_and_tickets_have_the_digits_of_the_code(row):
    digits = int(re.match(r"(\d+) hexadecimal", row[3])[1])
    assert is_taken(row[0], row[1], "0f" * (digits // 2))
    for wrong in ("0f" * (digits // 2 - 1), "0F" * (digits // 2), "0f" * (digits // 2) + "\n"):
        assert not is_taken(row[0], row[1], wrong)


def test_payloads_are_those_of_the_codec():
    with_payload = {name for name, body in re.findall(r"^### (\w+)\n(.*?)(?=^### |^## |\Z)", section(3) + section(4), re.M | re.S)
                    if "| payload |" in body}  # fmt: skip
    packets = {type(packet.header).__name__.lower(): encode(packet) for _, packet, _, _ in valid_messages()}
    assert with_payload == {name for name, parts in packets.items() if len(parts) > 1}


def test_the_sockets_of_messages_are_those_of_the_code():
    (audio,) = re.findall(r"^\| audio \|.*\| (`configure`.*?) \|", TEXT, re.M)
    assert set(re.findall(r"`(\w+)`", audio)) == {cls.__name__.lower() for cls in m.ORDERED}


# Codes

TRAVELLING = re.compile(r"^\| (E_[A-Z_]+) \|", re.M)
STAY_AT_HOME = {"E_BIND", "E_CURVE_FILE", "E_ENDPOINT", "E_LANE_UNKNOWN", "E_NO_LORA", "E_OUTPUT"}
"""Of the command line and the start of a server."""


def raised_in(*folders):
    files = [path for folder in folders for path in sorted((ROOT / folder).glob("*.py"))]
    return {code for path in files for code in re.findall(r"\"(E_[A-Z_]+)\"", path.read_text(encoding="utf-8"))}


def test_every_code_that_travels_is_in_the_table_and_the_reverse():
    in_table = set(TRAVELLING.findall(section(6)))
    raised = raised_in("engine_server/serve", "engine_server/tracks", "shared_protocol")
    assert in_table - raised == set()
    assert raised - in_table <= STAY_AT_HOME
    assert len(TRAVELLING.findall(section(6))) == len(in_table)


def test_the_plugin_names_the_same_codes():
    header = (ROOT / "shared_protocol" / "cpp" / "include" / "demon" / "messages.h").read_text(encoding="utf-8")
    block = re.search(r"namespace error\n\{(.*?)\n\} // namespace error", header, re.S)[1]
    named = set(re.findall(r"\"(E_[A-Z_]+)\"", block))
    own = set(re.findall(r"`(E_[A-Z_]+)`", section(6).split("Three more never travel")[1]))
    assert named <= set(TRAVELLING.findall(section(6))) | own


@pytest.mark.parametrize("code", sorted(set(re.findall(r"`(E_[A-Z_]+)`", section(3) + section(4) + section(5)))))
def test_codes_that_the_text_names_are_in_the_table(code):
    assert code in TRAVELLING.findall(section(6))


# Numbers and bytes


def test_the_limits_and_times_are_those_of_the_code():
    limit = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \| [^|]*E_[^|]* \|$", section(5), re.M))
    assert limit["tracks of a server"] == str(clients.MAX_TRACKS)
    assert limit["unfinished epochs of a track"] == str(m.MAX_OPEN_EPOCHS)
    assert limit["messages of a track that wait for the engine"] == str(server.MAX_WAITING)
    assert limit["frames of a stream's input that a track holds"] == str(MAX_FRAMES_HELD)
    assert limit["frames of windows that wait for a client"] == str(MAX_FRAMES_HELD)
    held = f"{worker.MAX_HELD_BYTES_OF_TRACK / 2**30:g} GiB and {worker.MAX_HELD_BYTES / 2**30:g} GiB"
    assert limit["audio of a track's input that is not encoded yet, and of all tracks'"] == held
    assert server.MAX_WAITING_FRAMES == 2 * worker.INPUT_CREDIT
    assert (sockets.MAX_CONTROL_BYTES, sockets.MAX_AUDIO_BYTES) == (64 * 2**10, 4 * 2**20)
    assert f"at most {QUESTIONS_PER_S:g} times a second ({QUESTIONS_AT_ONCE:g} at once)" in section(3)
    assert "no more than five times a second" in section(3)
    assert client.RESENT_AGAIN_S == 1 / 5
    times = {(float(s), who) for s, who in re.findall(r"^\| ([\d.]+) s \| (\w+) \|", section(5), re.M)}
    ours = (worker.PROGRESS_EVERY_S, client.RESEND_AFTER_S, server.TELL_LOADING_EVERY_S, clients.FORGET_AFTER_S)
    assert {(seconds, "server") for seconds in ours} == {time for time in times if time[1] == "server"}
    assert (sockets.FAREWELL_MS / 1000, "both") in times
    link = (ROOT / "plugin" / "link" / "LinkTimes.h").read_text(encoding="utf-8")
    plugin = {(int(ms) / 1000, "client") for ms in re.findall(r"=\s*(\d+) \* kMillisecond", link)}
    assert plugin <= times


def test_the_version_is_that_of_the_code():
    assert f"# DEMON protocol, version {shared_protocol.PROTOCOL_VERSION}\n" in TEXT
    assert f"tcp://127.0.0.1:{shared_protocol.DEFAULT_ENDPOINT.rsplit(':')[-1]}" in TEXT


BYTES = re.findall(r"^```bytes (\w+) (.*)\n((?:.*\n)*?)```", TEXT, re.M)


@pytest.mark.parametrize(("name", "fields", "listing"), BYTES, ids=[found[0] for found in BYTES])
def test_the_bytes_of_an_example_are_what_the_codec_writes(name, fields, listing):
    digits = "".join(re.match(r"(?:[0-9a-f]{2} +)+", line)[0] for line in listing.splitlines())
    header = CLASSES[name](**parse_fields(fields)[0])
    written = msgspec.msgpack.encode(header)
    assert bytes.fromhex(digits) == written
    assert re.search(rf"\b{len(written)}(?: bytes|, )", TEXT.split(listing)[0][-300:])
