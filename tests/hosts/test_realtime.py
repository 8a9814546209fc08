# SPDX-License-Identifier: Apache-2.0
"""While the host plays in real time, the plugin's audio thread never allocates, locks, waits or enters the kernel."""

from __future__ import annotations

import json
import sys

import pytest
from rt_session import COMPILER, Report, build_checker, run_session

pytest.importorskip("minihost", reason="minihost, the host of these tests, is not installed")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the checker is preloaded, and counts through Linux"),
    pytest.mark.skipif(COMPILER is None, reason="gcc, which compiles the checker, is missing"),
]

NOBODY = "tcp://127.0.0.1:9"


@pytest.fixture(scope="module")
def checker(tmp_path_factory):
    return build_checker(tmp_path_factory.mktemp("rtcheck"))


def demand_the_promise(report: Report) -> None:
    assert report.sections >= report.blocks > 1000, "the plugin does not call the checker in every block"
    assert report.violations == {}, report.explain()
    if not report.counts_syscalls:
        pytest.skip("no violation, but system calls were not counted: no syscall user dispatch on this machine")


def test_the_audio_thread_keeps_the_promise_without_an_engine(checker, bundle):
    """As fast as it goes, so that every buffer between the threads runs full or empty."""
    report = run_session(checker, bundle, seconds=60, variables={"DEMON_ENDPOINT": NOBODY})
    demand_the_promise(report)


def test_the_audio_thread_keeps_the_promise_while_an_engine_delivers(checker, bundle, server, tmp_path):
    log = tmp_path / "blocks.jsonl"
    variables = {"DEMON_ENDPOINT": server.endpoint, "DEMON_LATENCY_S": "3", "DEMON_PROBE_LOG": str(log)}
    report = run_session(checker, bundle, seconds=30, pace=1.5, variables=variables)
    blocks = [json.loads(line) for line in log.read_text().splitlines()]
    assert any(block["wet"] for block in blocks), "no window of the engine was played"
    assert not any(block["offline"] for block in blocks)
    demand_the_promise(report)


def test_in_loop_the_audio_thread_keeps_the_promise_while_it_captures_and_takes_arrive(
    checker, bundle, server, tmp_path
):
    log = tmp_path / "blocks.jsonl"
    variables = {
        "DEMON_ENDPOINT": server.endpoint, "DEMON_MODE": "loop", "DEMON_CAPTURE": "1", "DEMON_PROBE_LOG": str(log),
    }  # fmt: skip
    report = run_session(checker, bundle, seconds=30, pace=1.5, variables=variables)
    blocks = [json.loads(line) for line in log.read_text().splitlines()]
    assert any(block["wet"] for block in blocks), "no take of the engine was played"
    assert not blocks[0]["wet"]
    demand_the_promise(report)


def test_offline_the_plugin_waits_and_the_checker_sees_it(checker, bundle):
    """The control: in the same places of the same plugin, what is forbidden is counted."""
    variables = {"DEMON_ENDPOINT": NOBODY, "DEMON_TIMEOUT_S": "0.2"}
    report = run_session(checker, bundle, seconds=30, offline=True, variables=variables)
    if not report.counts_syscalls:
        pytest.skip("no syscall user dispatch on this machine")
    assert report.violations["system call"] > 0
    assert "DEMON" in report.first
