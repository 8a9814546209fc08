# SPDX-License-Identifier: Apache-2.0
"""Ray itself: whether it is installed, and how this process joins a cluster that runs already. Nothing here starts one."""

from __future__ import annotations

import io
import logging
import os
import socket
from typing import Any

from shared_protocol.errors import DemonError

NAMESPACE = "demon-bridge"
ANSWER_S = 3.0
"""A head node that is there accepts a connection by then; Ray itself would try for minutes."""
log = logging.getLogger("demon.cluster.ray")


def import_ray() -> Any:
    """The module. Raises DemonError `E_RAY` where it is missing or broken."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it must not call home
    try:
        import ray
    except ImportError as error:
        raise DemonError(
            "E_RAY",
            f"`demon cluster` needs Ray, which cannot be imported ({error}); on every node run "
            "`pip install '/path/to/checkout[cluster]'` in its environment",
        ) from error
    return ray


def join(address: str) -> Any:
    """Connect this process to the cluster at `address` (HOST:PORT of its head, or `auto`: the one this machine belongs to).

    Returns the module. On the main thread, before signal handlers are set, since Ray sets its own. Raises DemonError `E_RAY`,
    `E_CLUSTER`.
    """
    ray = import_ray()
    _check_head(address)
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DemonError("E_CLUSTER", f"{_no_cluster(address)}: {reason[0]}") from error
    return ray


def _check_head(address: str) -> None:
    """Raise DemonError `E_CLUSTER` unless something listens where the cluster's head should be."""
    try:
        from ray._private.services import canonicalize_bootstrap_address_or_die
    except ImportError:  # it is Ray's own affair; without it one waits for longer
        return
    try:
        found = canonicalize_bootstrap_address_or_die(address)
        host, _, port = found.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except ConnectionError as error:
        raise DemonError("E_CLUSTER", _no_cluster(address)) from error
    except (OSError, ValueError) as error:
        raise DemonError("E_CLUSTER", f"{_no_cluster(address)} ({error})") from error


def _no_cluster(address: str) -> str:
    where = "this machine belongs to no Ray cluster" if address == "auto" else f"there is no Ray cluster at {address}"
    return (
        f"{where}; run `ray start --head --disable-usage-stats` on one machine, and `ray start --address HEAD:6379 "
        "--disable-usage-stats` on the others"
    )


class LogLines(io.TextIOBase):
    """Takes standard output's place while Ray prints there what nodes and workers say: it goes to the log, a line each."""

    def write(self, text: str) -> int:
        """See io.TextIOBase. Any thread."""
        for line in text.splitlines():
            if line.strip():
                log.info("%s", line)
        return len(text)
