# SPDX-License-Identifier: Apache-2.0
"""Reports as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from engine_server.serve.report import EngineReport, GatewayReport, ProcessReport, Report, TrackReport
from engine_server.status.ask import Answer
from engine_server.status.sheet import Sheet

MIB = 2**20


def draw(answers: Sequence[Answer], before: Sequence[Answer] = ()) -> RenderableType:
    """What servers answered. before: an earlier time, for the processors' load since."""
    earlier = {answer.endpoint: answer.report for answer in before}
    servers = Sheet(
        ("server", "what"),
        ("up", "processor", "memory", "files", "tracks", "ticks/s", "step", "made", "late", "refused"),
        spare=("files", "what", "memory", "up", "step", "refused", "made"),
    )
    tracks = Sheet(
        ("track", "client", "mode"),
        ("rate", "up", "made", "per s", "late", "worst", "skipped", "slots", "epochs", "feed", "windows"),
        spare=("rate", "epochs", "slots", "up", "mode", "windows", "feed", "made", "client"),
    )
    silent, reasons = [], []
    for answer in answers:
        if answer.report is None:
            where = "" if answer.endpoint in answer.error else f"{answer.endpoint}: "
            silent.append(Text(where + answer.error, style="red"))
            continue
        servers.rows.append(_server(answer.endpoint, answer.report, _load(answer, earlier.get(answer.endpoint))))
        if isinstance(answer.report, EngineReport):
            if answer.report.backend_reason:
                reasons.append(Text(f"{answer.endpoint} computes by {answer.report.backend_reason}", style="dim"))
            tracks.rows += [_track(track) for track in answer.report.track_reports]
    return Group(servers, *reasons, *silent, *((Text(), tracks) if tracks.rows else ()))


def _server(endpoint: str, report: Report, load: str) -> Sequence[RenderableType]:
    process = report.process
    machine = (_duration(process.up_s), load, f"{process.memory_bytes / MIB:.0f} MiB", str(process.files))
    refused = str(sum(report.refusals.values()))
    if isinstance(report, GatewayReport):
        taken, most = sum(e.tracks for e in report.engines), sum(e.most_tracks for e in report.engines)
        what = f"gateway of {len(report.engines)}"
        return (endpoint, what, *machine, f"{taken} of {most}", "", "", "", "", refused)
    return (
        endpoint,
        Text(f"{report.checkpoint} {report.checkpoint_hash[:8]}, {report.backend}"),
        *machine,
        f"{report.tracks} of {report.most_tracks}",
        f"{report.ticks_per_s:.1f}",
        f"{1000 * report.step_s:.0f} ms",
        str(report.generations),
        _count(report.misses),
        refused,
    )


def _track(track: TrackReport) -> Sequence[RenderableType]:
    return (
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
