# SPDX-License-Identifier: Apache-2.0
"""The server's log: lines for people, or JSON lines for machines. Neither ever holds a secret or a prompt.

Say what a line is about with `extra=about(...)`; in JSON it becomes `track`, `code` and `fields`. A `DemonError` among a line's
arguments gives its code by itself, and so do texts that begin with one (`E_BUSY: ...`) or with `track ID`.
"""

from __future__ import annotations

import datetime
import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import msgspec

from shared_protocol.errors import DemonError

FORMATS = ("text", "json")
HIDDEN = "(hidden)"
PRIVATE_NAMES = ("prompt", "prompt_b", "secret", "secret_key", "curve_secretkey")
ID_DIGITS = 12
_ABOUT = "about"
_CODE = re.compile(r"(?:^|[ :])(E_[A-Z_]+): ")
_TRACK = re.compile(r"\btrack ([0-9a-f]{12}(?:\.\d+)?)\b")
_NAMES = "|".join(PRIVATE_NAMES)
_QUOTED = re.compile(
    rf"""(?P<name>['"]?\b(?:{_NAMES})\b['"]?\s*[=:]\s*)b?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""",
    re.IGNORECASE | re.DOTALL,
)
_CONTROL = {number: f"\\x{number:02x}" for number in (*range(32), 127, 0x85)} | {0x2028: "\\u2028", 0x2029: "\\u2029"}
_secrets: set[str] = set()


def short_id(routing_id: bytes) -> str:
    """A routing id as log lines name it."""
    return routing_id.hex()[:ID_DIGITS]


def about(*, track: str = "", code: str = "", **fields: Any) -> dict[str, Any]:
    """What a line is about, for `extra`. Fields are numbers, texts, or what `str` makes a text of."""
    return {_ABOUT: {"track": track, "code": code, "fields": fields}}


def hide(secret: str) -> None:
    """Replace a text of eight characters or more wherever a line would show it. Any thread; for the life of the process."""
    if len(secret) < 8:
        raise ValueError("a text so short is in many lines")
    _secrets.add(secret)


def configure_logging(
    level: int | str = logging.WARNING, format: str = "text", *, stream: TextIO | None = None
) -> None:
    """Write this process's log to `stream` (standard error) from now on, and nowhere else.

    level: of the engine's own loggers; libraries say warnings only, since what else they say is not ours to vouch for.
    Raises DemonError `E_FIELD` for a format or level that is none.
    """
    if format not in FORMATS:
        raise DemonError("E_FIELD", f"log format is {format!r}, not one of {', '.join(FORMATS)}")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(Discretion())
    handler.setFormatter(JsonLines() if format == "json" else TextLines())
    try:
        logging.getLogger("demon").setLevel(level)
    except ValueError as error:
        raise DemonError("E_FIELD", f"log level is {level!r}, not DEBUG, INFO, WARNING or ERROR") from error
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


class Discretion(logging.Filter):
    """Puts a line's text together and takes out of it, and of its traceback and fields, what is private.

    Structs of the protocol hold prompts, so their type alone is told. Everything else that says `prompt=`, `secret:` and the
    like loses the quoted text behind it, and secrets that were given to `hide` disappear wherever they are.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record in place; always True."""
        found = getattr(record, _ABOUT, None) or {"track": "", "code": "", "fields": {}}
        code = found["code"] or next((arg.code for arg in _arguments(record) if isinstance(arg, DemonError)), "")
        record.args = _without_structs(record.args)
        text = clean(_message(record))
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = clean(record.exc_text)
        record.exc_info = None
        record.msg, record.args = text, None
        code = code or _first(_CODE, text)
        fields = {name: _clean_field(name, value) for name, value in found["fields"].items()}
        setattr(record, _ABOUT, {"track": found["track"] or _first(_TRACK, text), "code": code, "fields": fields})
        return True


class TextLines(logging.Formatter):
    """`2025-01-31 12:00:00,000 WARNING demon.serve: track 64a1b2c3d4e5.0: E_LIMIT: ... depth=4`. One line but for tracebacks."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter. What clients say of themselves cannot begin a line of its own, nor can a traceback."""
        record.message, record.asctime = record.getMessage(), self.formatTime(record)
        fields = getattr(record, _ABOUT, {}).get("fields", {})
        line = " ".join([self.formatMessage(record), *(f"{name}={value}" for name, value in fields.items())])
        trace = "".join(f"\n    {one.translate(_CONTROL)}" for one in (record.exc_text or "").splitlines())
        return line.translate(_CONTROL) + trace


class JsonLines(logging.Formatter):
    """A JSON object per line: time (UTC), level, logger, message, track, code, fields, and `exception` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        found: Mapping[str, Any] = getattr(record, _ABOUT, None) or {"track": "", "code": "", "fields": {}}
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "track": found["track"],
            "code": found["code"],
            "fields": found["fields"],
        }
        if record.exc_text:
            line["exception"] = record.exc_text
        return msgspec.json.encode(line, enc_hook=str).decode()


def clean(text: str) -> str:
    """A text without what is private."""
    for secret in tuple(_secrets):
        text = text.replace(secret, HIDDEN)
    return _QUOTED.sub(rf"\g<name>{HIDDEN}", text)


def _clean_field(name: str, value: Any) -> Any:
    if name.lower() in PRIVATE_NAMES:
        return HIDDEN
    if isinstance(value, bool | int | float) or value is None:
        return value
    return clean(str(_without_struct(value)))


def _arguments(record: logging.LogRecord) -> tuple[object, ...]:
    return record.args if isinstance(record.args, tuple) else ()


def _message(record: logging.LogRecord) -> str:
    """The line's text, also of one that was written wrongly: a fault of ours must not lose it."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} {record.args!r}"


def _without_structs(arguments: Any) -> Any:
    if isinstance(arguments, Mapping):
        return {name: _without_struct(value) for name, value in arguments.items()}
    return tuple(map(_without_struct, arguments)) if arguments else arguments


def _without_struct(value: Any) -> Any:
    return f"{type(value).__name__}{HIDDEN}" if isinstance(value, msgspec.Struct) else value


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1] if match else ""
