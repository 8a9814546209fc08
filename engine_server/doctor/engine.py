# SPDX-License-Identifier: Apache-2.0
"""Whether what listens at an endpoint is an engine, answers, and is of this version."""

from __future__ import annotations

from engine_server.doctor.finding import Finding, fail, ok, warn
from engine_server.serve.endpoint import client_endpoint, parse_endpoint
from engine_server.serve.greeting import ask_greeting
from engine_server.serve.report import SERVER, EngineReport
from engine_server.status.ask import Answer, ask_all
from shared_protocol.errors import DemonError


def check_engine(endpoint: str) -> list[Finding]:
    """Ask the server there, and behind a gateway all its engines. Nothing where nothing listens: `check_ports` tells that."""
    address = parse_endpoint(client_endpoint(endpoint))
    if address is None or not ask_greeting(address.host.strip("[]"), address.port):
        return []
    try:
        return [_describe(answer) for answer in ask_all(endpoint)]
    except DemonError as error:
        if error.code == "E_KEYS":
            return [warn("engine", str(error), "nothing, if `demon status` is not needed here")]
        return [fail("engine", str(error), "end what listens there: it is no engine of this version, or it hangs")]


def _describe(answer: Answer) -> Finding:
    report = answer.report
    if report is None:
        return fail("engine", answer.error, "the gateway starts it again if it hangs; its log says why")
    if report.server != SERVER:
        return warn("engine", f"{answer.endpoint} is {report.server}, this is {SERVER}", "start it again")
    if isinstance(report, EngineReport):
        return ok("engine", f"{answer.endpoint}: {report.server}, {report.checkpoint}, {report.tracks} tracks")
    return ok("engine", f"{answer.endpoint}: {report.server}, a gateway to {len(report.engines)} engines")
