# SPDX-License-Identifier: Apache-2.0
"""What a check found, and how checks are run: one that fails by itself is a finding too."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence

import msgspec

from shared_protocol.errors import DemonError


class Status(enum.StrEnum):
    """How bad it is: `warn` plays, with less than one could have; `fail` does not play, or not with the bits promised."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True):
    """A line of the report."""

    check: str
    status: Status
    detail: str
    """What is so."""
    advice: str = ""
    """What to do; empty if nothing."""


Check = Callable[[], Sequence[Finding]]
"""May raise DemonError, whose message says what to do, and OSError."""


def ok(check: str, detail: str) -> Finding:
    """All is well."""
    return Finding(check, Status.OK, detail)


def warn(check: str, detail: str, advice: str) -> Finding:
    """It plays, but."""
    return Finding(check, Status.WARN, detail, advice)


def fail(check: str, detail: str, advice: str = "") -> Finding:
    """It does not."""
    return Finding(check, Status.FAIL, detail, advice)


def run_checks(checks: Sequence[tuple[str, Check]]) -> Iterator[Finding]:
    """Run checks in order; findings come as they are made. What a check raises is a failure with the check's name."""
    for name, check in checks:
        try:
            yield from check()
        except DemonError as error:
            yield fail(name, str(error))
        except Exception as error:  # a doctor who faints helps nobody: the other checks still say what they know
            yield fail(name, f"{type(error).__name__}: {error}", "this check itself failed; the others still hold")
