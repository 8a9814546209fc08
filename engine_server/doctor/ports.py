# SPDX-License-Identifier: Apache-2.0
"""Whether an engine could listen, or who does."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

from engine_server.doctor.finding import Finding, fail, ok
from engine_server.serve.endpoint import LAST_PORT, parse_endpoint
from engine_server.serve.greeting import ask_greeting

PORTS_OF_AN_ENGINE = 2
"""Control, and audio on the port after it."""
LISTENING = "0A"


def check_ports(endpoint: str, holder: Callable[[int], str] | None = None) -> list[Finding]:
    """The ports of an endpoint are free, or something that speaks ZeroMQ listens there already.

    holder: names the process that listens on a port of this machine, empty if unknown.
    """
    address = parse_endpoint(endpoint)
    if address is None or not 0 < address.port <= LAST_PORT + 1 - PORTS_OF_AN_ENGINE:
        return [fail("ports", f"{endpoint!r} is not tcp://ADDRESS:PORT", "give --endpoint as to `demon serve`")]
    host = "0.0.0.0" if address.host == "*" else address.host.strip("[]")
    ports = range(address.port, address.port + PORTS_OF_AN_ENGINE)
    return [_check_port(host, port, holder or find_holder) for port in ports]


def _check_port(host: str, port: int, holder: Callable[[int], str]) -> Finding:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as ZeroMQ does: an old connection holds no port
            one.bind(address)
            one.listen(1)
    except OSError as error:
        return _name_holder(host, port, error, holder)
    return ok("ports", f"{port} is free on {host}")


def _name_holder(host: str, port: int, error: OSError, holder: Callable[[int], str]) -> Finding:
    who = holder(port)
    by = f" ({who})" if who else ""
    mechanism = ask_greeting("127.0.0.1" if host == "0.0.0.0" else host, port)
    if mechanism == "NULL":
        return ok("ports", f"{port}: an engine, or another ZeroMQ server, listens there without keys{by}")
    if mechanism:
        return ok("ports", f"{port}: an engine, or another ZeroMQ server, listens there with {mechanism} keys{by}")
    if mechanism is None:
        return fail("ports", f"{host} port {port}: {error.strerror or error}", "name an address of this machine")
    return fail(
        "ports", f"{port} is taken by something that is no engine{by}", "end it, or serve at another --endpoint"
    )


def find_holder(port: int, proc: Path = Path("/proc")) -> str:
    """The process that listens on a TCP port, as far as Linux tells this user: `demon (process 123)`, or empty."""
    sockets = set()
    for table in ("net/tcp", "net/tcp6"):
        with contextlib.suppress(OSError):
            for line in (proc / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    if not sockets:
        return ""
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # others' processes do not show what they hold
            if any(os.readlink(handle) in sockets for handle in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()}, process {process.name}"
    return ""
