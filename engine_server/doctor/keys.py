# SPDX-License-Identifier: Apache-2.0
"""The keys of this machine: as a server, and as a client of others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from engine_server.doctor.finding import Finding, fail, ok, warn
from engine_server.folders import config_folder
from engine_server.serve.credentials import read_credentials
from engine_server.serve.keys import KeyStore
from engine_server.serve.security import check_bind
from shared_protocol.errors import DemonError


def check_keys(endpoint: str, store: KeyStore | None = None, engines: Path | None = None) -> list[Finding]:
    """Key files are private and whole, and suffice to serve at an endpoint. No finding has a secret.

    engines: the folder of credential files, `engines` beside the settings unless given.
    """
    return [_check_server(endpoint, store or KeyStore()), *_check_credentials(engines or config_folder() / "engines")]


def _check_server(endpoint: str, store: KeyStore) -> Finding:
    has_pair, clients = store.has_server(), store.clients()
    try:
        check_bind(endpoint, store)
    except DemonError as error:
        return fail("keys", str(error))
    if not clients:
        return ok("keys", "no client has a key: the engine serves this machine only")
    names = ", ".join(client.name for client in clients)
    if not has_pair:
        return warn("keys", f"allowed: {names}; the server has no keys yet", "run: demon keys show")
    return ok("keys", f"allowed from other machines: {names}")


def _check_credentials(folder: Path) -> list[Finding]:
    findings: list[Finding] = []
    endpoints: Counter[str] = Counter()
    for path in sorted(folder.glob("*.json")):
        try:
            endpoint = read_credentials(path).endpoint
        except DemonError as error:
            findings.append(fail("engines", str(error)))
            continue
        endpoints[endpoint] += 1
        findings.append(ok("engines", f"{path.name}: keys for {endpoint}"))
    for endpoint, count in endpoints.items():
        if count > 1:
            findings.append(warn("engines", f"{count} files are for {endpoint}", f"keep one of them in {folder}"))
    return findings
