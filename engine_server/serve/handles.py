# SPDX-License-Identifier: Apache-2.0
"""File descriptors: how many a server needs, and raising what the system gives at first to what it allows."""

from __future__ import annotations

import contextlib

from engine_server.serve.door import MOST_CONNECTIONS, QUEUED_EVENTS

SOCKETS = 2
"""Control and audio."""
OWN_HANDLES = 256
"""Files, libraries, threads' wake-ups, devices."""
PLAYING_HANDLES = OWN_HANDLES + SOCKETS * 2 * 64
"""64 tracks, each with an old connection that is not closed yet."""
BESIEGED_HANDLES = OWN_HANDLES + SOCKETS * (MOST_CONNECTIONS + QUEUED_EVENTS)
"""While somebody opens connections as fast as they can: see `door.py`."""


def raise_handle_limit() -> int:
    """Raise this process's limit to what the system allows, and return it. Once, at the start of a server."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = BESIEGED_HANDLES if hard == resource.RLIM_INFINITY else min(hard, BESIEGED_HANDLES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return soft
