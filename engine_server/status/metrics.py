# SPDX-License-Identifier: Apache-2.0
"""Reports as Prometheus metrics, on an HTTP port of their own. Every scrape asks the server anew, as `demon status` does."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from engine_server.serve.report import EngineReport, GatewayReport
from engine_server.status.ask import Answer, ask_all, engines_of
from shared_protocol.errors import DemonError

ADDRESS = re.compile(r"(?:(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):)?(?P<port>\d{1,5})")
GAUGES: dict[str, tuple[str, Callable[[EngineReport], float]]] = {
    "demon_tracks": ("Tracks that are open.", lambda r: r.tracks),
    "demon_tracks_limit": ("Tracks that may be open.", lambda r: r.most_tracks),
    "demon_ring_slots_busy": ("Generations in flight.", lambda r: r.slots),
    "demon_step_seconds": ("What a step of the engine takes, smoothed.", lambda r: r.step_s),
    "demon_ticks_per_second": ("Forwards of the decoder, smoothed; 0 while the engine rests.", lambda r: r.ticks_per_s),
}
COUNTERS: dict[str, tuple[str, Callable[[EngineReport], float]]] = {
    "demon_generations": ("Generations finished.", lambda r: r.generations),
    "demon_deadline_misses": ("Hops of live streams that were ready too late.", lambda r: r.misses),
    "demon_hops_skipped": ("Hops of live streams that were played past.", lambda r: r.skipped),
    "demon_slot_ticks": ("Steps of denoising, of all slots.", lambda r: r.slot_ticks),
    "demon_reloads": ("Times that the engine was loaded anew.", lambda r: r.reloads),
    "demon_engine_cpu_seconds": ("Processor time of the thread that steps the engine.", lambda r: r.engine_cpu_s),
    "demon_link_cpu_seconds": ("Processor time of the thread that talks to the clients.", lambda r: r.link_cpu_s),
}
log = logging.getLogger("demon.metrics")


class ServerCollector(Collector):
    """Asks when it is collected, on the thread that collects. A server that does not answer is `demon_up 0`."""

    def __init__(self, ask: Callable[[], list[Answer]]) -> None:
        self._ask = ask

    def describe(self) -> list[Metric]:
        """Nothing: the server need not serve yet when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            answers = self._ask()
        except DemonError as error:
            log.info("no metrics: %s", error)
            answers = []
        up = GaugeMetricFamily("demon_up", "Whether the server answers.", labels=["server"])
        for answer in answers:
            up.add_metric([answer.endpoint], float(answer.report is not None))
        if not answers:
            up.add_metric([""], 0.0)
        yield up
        yield from _of_engines(answers)
        yield from _of_processes(answers)


def serve_metrics(address: str, ask: Callable[[], list[Answer]]) -> Callable[[], None]:
    """Answer scrapes at `PORT` or `HOST:PORT` (loopback without a host) on a thread of its own; call what is returned to end it.

    Raises DemonError `E_BIND`.
    """
    found = ADDRESS.fullmatch(address)
    if found is None or int(found["port"]) > 65_535:
        raise DemonError("E_BIND", f"--metrics {address!r}: give PORT or HOST:PORT")
    registry = CollectorRegistry()
    registry.register(ServerCollector(ask))
    try:
        server, thread = start_http_server(
            int(found["port"]), (found["host"] or "127.0.0.1").strip("[]"), registry=registry
        )
    except OSError as error:
        raise DemonError("E_BIND", f"--metrics {address}: {error.strerror or error}") from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


@contextmanager
def own_metrics(address: str | None) -> Iterator[Callable[[str], None]]:
    """Metrics of this process's server for as long as this lasts, none without an address; call what it gives once it listens.

    Raises as `serve_metrics`.
    """
    serving: list[str] = []
    stop = serve_metrics(address, lambda: ask_all(serving[0]) if serving else []) if address is not None else None
    try:
        yield serving.append
    finally:
        if stop:
            stop()


def _of_engines(answers: list[Answer]) -> Iterator[Metric]:
    engines = engines_of(answers)
    info = InfoMetricFamily("demon_engine", "What serves.", labels=["server"])
    for endpoint, report in engines:
        named = {"version": report.server, "checkpoint": report.checkpoint, "backend": report.backend}
        info.add_metric([endpoint], named | {"checkpoint_hash": report.checkpoint_hash, "depth": str(report.depth)})
    yield info
    for family, rows in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
        for name, (text, value) in rows.items():
            metric = family(name, text, labels=["server"])
            for endpoint, report in engines:
                metric.add_metric([endpoint], value(report))
            yield metric


def _of_processes(answers: list[Answer]) -> Iterator[Metric]:
    refusals = CounterMetricFamily("demon_refusals", "Messages refused, by code.", labels=["server", "code"])
    redirects = CounterMetricFamily("demon_redirects", "Tracks that a gateway has sent on.", labels=["server"])
    up = GaugeMetricFamily("demon_process_up_seconds", "Since the process started.", labels=["server"])
    cpu = CounterMetricFamily("demon_process_cpu_seconds", "Processor time of all threads.", labels=["server"])
    memory = GaugeMetricFamily("demon_process_resident_memory_bytes", "Resident memory.", labels=["server"])
    files = GaugeMetricFamily("demon_process_open_files", "Open files and connections.", labels=["server"])
    for answer in answers:
        if answer.report is None:
            continue
        name, process = [answer.endpoint], answer.report.process
        for code, count in sorted(answer.report.refusals.items()):
            refusals.add_metric([*name, code], count)
        if isinstance(answer.report, GatewayReport):
            redirects.add_metric(name, answer.report.redirects)
        up.add_metric(name, process.up_s)
        cpu.add_metric(name, process.cpu_s)
        memory.add_metric(name, process.memory_bytes)
        files.add_metric(name, process.files)
    yield from (refusals, redirects, up, cpu, memory, files)
