# SPDX-License-Identifier: Apache-2.0
"""Starts servers fast: a process that has imported what `demon serve` imports, and forks one process for each.

The import of torch takes most of a server's start. What is forked is the whole `demon serve` from its command line on, in
a process of its own: it loads its checkpoint, opens its sockets, and is killed like any other. Nothing but modules is
shared: the starter runs no tensor code, so that no thread of it is missing in a child.

As a program (`python -m tests.soak.starter FD`) it takes requests from a socket: a JSON list of arguments with three file
descriptors for standard input, output and error; the answer is the process's id.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_BYTES = 65_536
START_TIMEOUT_S = 120.0
CACHE_BYTES = 4 * 2**20
"""What servers keep of prompts, of either kind. The guests say new ones all the time: by its own budget a server would go on
growing for longer than an hour, which would hide what must not grow."""


class Starter:
    """The caller's side. Processes live no longer than it: their standard input closes with the caller's."""

    def __init__(self, temporary: Path | None = None) -> None:
        """temporary: the folder for temporary files of what is started; by default the system's."""
        environment = os.environ | ({"TMPDIR": str(temporary)} if temporary else {})
        self._socket, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.soak.starter", str(far.fileno())],
                cwd=ROOT,
                env=environment,
                pass_fds=[far.fileno()],
            )
        self._socket.settimeout(START_TIMEOUT_S)

    @property
    def pid(self) -> int:
        """Of the process that forks."""
        return self._process.pid

    def start(self, arguments: Sequence[str], streams: Sequence[int]) -> int:
        """`demon` with these arguments and standard streams, in a new process; its id."""
        socket.send_fds(self._socket, [json.dumps(list(arguments)).encode()], list(streams))
        answer = self._socket.recv(MOST_BYTES)
        if not answer:
            raise RuntimeError("the starter has ended")
        return int(answer)

    def close(self) -> None:
        """End it; what it has started goes on until its standard input closes."""
        self._socket.close()
        self._process.wait(START_TIMEOUT_S)


def main() -> None:
    """Take requests until the other end closes."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    import_all()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries children
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        while True:
            message, streams, *_ = socket.recv_fds(requests, MOST_BYTES, 3)
            if not message:
                return
            child = os.fork()
            if child == 0:
                requests.close()
                become_demon(json.loads(message), streams)
            for stream in streams:
                os.close(stream)
            requests.send(str(child).encode())


def import_all() -> None:
    """What a server imports on its way to serving, and no more; and how much it keeps."""
    import engine_server.cli
    import engine_server.model.checkpoint
    import engine_server.model.conditioning
    import engine_server.serve.server
    import engine_server.serve.warm_up
    import engine_server.tracks.lora_catalogue

    engine_server.model.conditioning.CACHE_BYTES = CACHE_BYTES


def become_demon(arguments: Sequence[str], streams: Sequence[int]) -> None:
    """Be `demon` and end with its status. Does not return."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        from engine_server.cli import app

        app(list(arguments), standalone_mode=False)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
