# SPDX-License-Identifier: Apache-2.0
"""What a server tells of itself: counts of what it refused, and reports of its tracks to those who may know of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

from engine_server.model.checkpoint import Checkpoint
from engine_server.serve.client import Client
from engine_server.serve.clients import MAX_TRACKS
from engine_server.serve.inbox import Waiting
from engine_server.serve.report import SERVER, EngineReport, TrackReport, cut, this_process
from engine_server.serve.worker import NO_POSITION, Worker
from engine_server.tracks.stats import TrackStats


class Reporter:
    """Belongs to the socket thread."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.refusals: Counter[str] = Counter()
        """By code: those of SPEC.md, section 6."""
        self.reloads = 0
        self._thread_s = 0.0

    def begin(self) -> None:
        """The socket thread serves from now on: what it did before is not the link's."""
        self._thread_s = time.thread_time()

    def report(
        self,
        checkpoint: Checkpoint,
        backend: str,
        clients: Iterable[Client],
        *,
        may_tell: Callable[[Client], bool],
        name_of: Callable[[str], str],
        is_own: bool,
    ) -> EngineReport:
        """As of now. may_tell: of which clients the one who asks may know; name_of: what a key's owner is called.

        is_own: whether it is the server's own user who asks. Others hear nothing of its files.
        """
        vitals, everybody, now = self._worker.vitals, list(clients), time.monotonic()
        return EngineReport(
            server=SERVER,
            checkpoint=checkpoint.name,
            checkpoint_hash=checkpoint.content_hash,
            backend=backend,
            depth=vitals.depth,
            process=this_process(),
            engine_cpu_s=vitals.cpu_s,
            link_cpu_s=time.thread_time() - self._thread_s,
            step_s=vitals.step_s,
            ticks_per_s=vitals.ticks_per_s,
            slots=vitals.total.slots,
            generations=vitals.total.generations,
            misses=vitals.total.misses,
            skipped=vitals.total.skipped,
            slot_ticks=vitals.total.slot_ticks,
            tracks=len(everybody),
            most_tracks=MAX_TRACKS,
            reloads=self.reloads,
            refusals=dict(self.refusals),
            track_reports=[self._track(client, name_of(client.user), now) for client in everybody if may_tell(client)],
            backend_reason=cut(checkpoint.choice.reason) if is_own else "",
        )

    def _track(self, client: Client, user: str, now: float) -> TrackReport:
        position = self._worker.positions.get(client.track_id, NO_POSITION)
        stats = self._worker.vitals.tracks.get(client.track_id, TrackStats())
        waiting: Waiting = self._worker.inbox.waiting(client.routing_id)
        return TrackReport(
            track=client.track_id,
            client=client.hello.client,
            user=user,
            mode=client.hello.mode,
            rate=client.hello.rate,
            up_s=now - client.greeted_at,
            generations=stats.generations,
            generations_per_s=position.generations,
            misses=stats.misses,
            worst_lateness_s=stats.worst_lateness_s,
            skipped=stats.skipped,
            slots=stats.slots,
            slot_ticks=stats.slot_ticks,
            epochs=len(position.epochs),
            feed_frames=waiting.frames,
            window_frames=client.frames_held,
        )
