# SPDX-License-Identifier: Apache-2.0
"""Reports as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from engine_server.serve.report import EngineReport, GatewayReport, ProcessReport, TrackReport
from engine_server.status.ask import Answer

MIB = 2**20


def draw(answers: Sequence[Answer], before: Sequence[Answer] = ()) -> RenderableType:
    """What servers answered. before: an earlier time, for the processors' load since."""
    earlier = {answer.endpoint: answer.report for answer in before}
    servers = _table("server", "", numbers="up|processor|memory|files|tracks|ticks/s|step|made|late|refused")
    tracks = _table(
        "track", "client", "mode", numbers="rate|up|made|per s|late|worst|skipped|slots|epochs|feed|windows"
    )
    for answer in answers:
        _add_server(servers, answer, _load(answer, earlier.get(answer.endpoint)))
        if isinstance(answer.report, EngineReport):
            for track in answer.report.track_reports:
                _add_track(tracks, track)
    return Group(servers, Text(), tracks) if tracks.row_count else servers


def _table(*texts: str, numbers: str) -> Table:
    """Columns of text, then of numbers, which stand on the right."""
    table = Table(*texts, box=None, pad_edge=False, header_style="bold")
    for heading in numbers.split("|"):
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _add_server(table: Table, answer: Answer, load: str) -> None:
    report = answer.report
    if report is None:
        table.add_row(answer.endpoint, Text(answer.error, style="red"))
        return
    process = report.process
    machine = (_duration(process.up_s), load, f"{process.memory_bytes / MIB:.0f} MiB", str(process.files))
    refused = str(sum(report.refusals.values()))
    if isinstance(report, GatewayReport):
        taken, most = sum(e.tracks for e in report.engines), sum(e.most_tracks for e in report.engines)
        what = f"gateway of {len(report.engines)}"
        table.add_row(answer.endpoint, what, *machine, f"{taken} of {most}", "", "", "", "", refused)
        return
    table.add_row(
        answer.endpoint,
        Text(f"{report.checkpoint} {report.checkpoint_hash[:8]}, {report.backend}"),
        *machine,
        f"{report.tracks} of {report.most_tracks}",
        f"{report.ticks_per_s:.1f}",
        f"{1000 * report.step_s:.0f} ms",
        str(report.generations),
        _count(report.misses),
        refused,
    )


def _add_track(table: Table, track: TrackReport) -> None:
    table.add_row(
        track.track,
        Text(f"{track.client} {track.user}".strip()),
        track.mode,
        str(track.rate),
        _duration(track.up_s),
        str(track.generations),
        f"{track.generations_per_s:.1f}",
        _count(track.misses),
        f"{1000 * track.worst_lateness_s:.0f} ms" if track.misses else "",
        _count(track.skipped),
        str(track.slots),
        str(track.epochs),
        str(track.feed_frames),
        str(track.window_frames),
    )


def _load(answer: Answer, before: EngineReport | GatewayReport | None) -> str:
    """Processor time per time, since `before` or else since the start."""
    if answer.report is None:
        return ""
    now = answer.report.process
    then = before.process if before and before.process.pid == now.pid else None
    zero = ProcessReport(now.pid, 0.0, 0.0, 0, 0)
    since = then or zero
    return f"{100 * (now.cpu_s - since.cpu_s) / max(now.up_s - since.up_s, 1e-3):.0f} %"


def _count(number: int) -> Text:
    return Text(str(number), style="yellow" if number else "")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
