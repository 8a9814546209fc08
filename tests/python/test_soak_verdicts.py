# SPDX-License-Identifier: Apache-2.0
"""What the soak calls right and wrong: a check that lets everything pass would be worth nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.soak.fleets import FleetServer
from tests.soak.leaks import check_flat, check_no_files, check_no_processes, mark_run, slope
from tests.soak.long_soak import Sample, SoakReport, check_steady
from tests.soak.music import LATENCY
from tests.soak.phases import check_lives
from tests.soak.plans import KINDS, PHASES, WAYS, make_plan
from tests.soak.scenarios import Outcome
from tests.soak.servers import Held, Server
from tests.soak.strikes import Strike, check_reconnection
from tests.soak.verdicts import ViolationError, judge_bounce, judge_looping, judge_playing
from tests.soak.watch import ProbeWatch, Seen

RNG = np.random.default_rng(4)
SOURCE, WET = (RNG.standard_normal((2, 48_000)).astype(np.float32) for _ in range(2))
HALF = 24_000
BLOCK = 480


def judged(audio, *, may_end_dry=False, receipts=()):
    return judge_bounce(audio, WET, SOURCE, may_end_dry=may_end_dry, receipts=receipts)


def half_dry():
    return np.concatenate([WET[:, :HALF], SOURCE[:, HALF:]], axis=1)


def test_the_reference_is_right():
    assert judged(WET.copy()) == "same bits"


def test_one_other_bit_is_wrong():
    audio = WET.copy()
    audio[1, 1234] = np.nextafter(audio[1, 1234], np.float32(9))
    with pytest.raises(ViolationError, match=r"from 0.026 s on"):
        judged(audio, may_end_dry=True)


def test_dry_is_wrong_where_the_engine_was_never_away_for_long():
    with pytest.raises(ViolationError, match="never away"):
        judged(half_dry())


def test_dry_to_the_end_is_right_where_the_engine_stays_away():
    assert judged(half_dry(), may_end_dry=True, receipts=[{"complete": False}]) == "dry from 0.500 s on"


def test_dry_with_a_receipt_that_calls_it_complete_is_wrong():
    with pytest.raises(ViolationError, match="complete"):
        judged(half_dry(), may_end_dry=True, receipts=[{"complete": True}])


def test_missing_samples_are_wrong():
    with pytest.raises(ViolationError, match="47999 samples"):
        judged(WET[:, :-1])


@pytest.fixture
def played():
    """Two seconds of music played, all of it in time."""
    expected = RNG.standard_normal((2, 200 * BLOCK)).astype(np.float32)
    audio = np.concatenate([np.zeros((2, LATENCY), np.float32), expected], axis=1)
    seen = [Seen(0.01 * k, True, True, True, False) for k in range(audio.shape[1] // BLOCK)]
    return audio, expected, seen


def late(seen, *numbers):
    return [Seen(one.at, True, True, False, True) if k in numbers else one for k, one in enumerate(seen)]


def test_played_in_time_it_has_the_references_bits(played):
    assert judge_playing(*played, BLOCK, calm_s=20.0) == "in time 100%"


def test_a_block_in_time_with_other_bits_is_wrong(played):
    audio, expected, seen = played
    audio[0, LATENCY + 5000] += 1
    with pytest.raises(ViolationError, match="other bits"):
        judge_playing(audio, expected, seen, BLOCK, calm_s=20.0)


def test_a_late_block_may_have_other_bits(played):
    audio, expected, seen = played
    number = LATENCY // BLOCK + 10
    audio[0, number * BLOCK + 5] += 1
    assert judge_playing(audio, expected, late(seen, number), BLOCK, calm_s=20.0) == "in time 99%"


def test_late_for_ever_is_wrong_once_nothing_has_struck_for_long(played):
    audio, expected, seen = played
    seen = late(seen, *range(len(seen)))
    assert judge_playing(audio, expected, seen, BLOCK, calm_s=5.0) == "in time 0%"
    with pytest.raises(ViolationError, match="still late"):
        judge_playing(audio, expected, seen, BLOCK, calm_s=20.0)


@pytest.fixture
def looped():
    """A capture, a pass in which takes arrive, two at rest; a knob turned in mid-pass, and three at rest on what it makes."""
    clip, before, after, mixed = (RNG.standard_normal((2, 10 * BLOCK)).astype(np.float32) for _ in range(4))
    audio = np.concatenate([clip, mixed, before, before, before, mixed, after, after, after], axis=1)
    return audio, clip, before, after


TURN_AT = 45 * BLOCK


def test_a_loop_at_rest_is_right(looped):
    assert judge_looping(*looped, turn_at=TURN_AT, calm_s=20.0) == "same bits"


@pytest.mark.parametrize("block", [35, 44, 75, 89])
def test_a_loop_at_rest_stays_there_whatever_strikes(looped, block):
    looped[0][1, block * BLOCK + 7] += 1
    with pytest.raises(ViolationError, match=f"at rest .* at {(block * BLOCK + 7) / 48_000:.3f} s|not at rest"):
        judge_looping(*looped, turn_at=TURN_AT, calm_s=20.0)


def test_what_sounds_while_a_loop_is_made_again_may_be_anything(looped):
    for block in (12, 47, 55):
        looped[0][0, block * BLOCK] += 1
    assert judge_looping(*looped, turn_at=TURN_AT, calm_s=20.0) == "same bits"


def test_a_loop_that_finds_no_rest_is_wrong_once_nothing_has_struck_for_long(looped):
    audio, clip, before, after = looped
    audio[:, 60 * BLOCK :] = audio[:, : 30 * BLOCK]
    assert judge_looping(audio, clip, before, after, turn_at=TURN_AT, calm_s=5.0) == "struck to the end"
    with pytest.raises(ViolationError, match="4800 of 4800 samples are not at rest"):
        judge_looping(audio, clip, before, after, turn_at=TURN_AT, calm_s=20.0)


def test_a_capture_that_changes_what_passes_is_wrong(looped):
    looped[0][0, 3] += 1
    with pytest.raises(ViolationError, match="captured"):
        judge_looping(*looped, turn_at=TURN_AT, calm_s=20.0)


def test_the_way_back_has_a_limit():
    strike = Strike("kill", 1.0, 0.5, 0.0, None, reconnect_s=2.2)
    check_reconnection(strike, 3.0)
    with pytest.raises(ViolationError, match=r"2.20 s"):
        check_reconnection(strike, 2.0)


def test_a_plan_is_a_function_of_seed_phase_and_number():
    plans = [make_plan(3, phase, number) for phase in PHASES for number in range(50)]
    assert plans == [make_plan(3, phase, number) for phase in PHASES for number in range(50)]
    assert plans != [make_plan(4, phase, number) for phase in PHASES for number in range(50)]


@pytest.mark.parametrize("phase", PHASES)
def test_over_many_plans_every_way_and_every_fault_of_a_phase_comes(phase):
    plans = [make_plan(1, phase, number, ports=2) for number in range(300)]
    assert {plan.way for plan in plans} == set(WAYS)
    kinds = {fault.kind for plan in plans for fault in plan.faults}
    assert kinds == set(KINDS[phase])
    engines = {fault.engine for plan in plans for fault in plan.faults}
    assert engines == ({None, 0, 1} if phase == "workers" else {None})
    ports = {fault.port for plan in plans for fault in plan.faults}
    assert ports == ({None, 0, 1} if phase == "network" else {None})
    assert all(list(plan.faults) == sorted(plan.faults, key=lambda fault: fault.at) for plan in plans)


def test_the_slope_is_not_moved_by_outliers():
    times = list(range(100))
    values = [1000.0 + 2.0 * t for t in times]
    values[10] = values[50] = 1e6
    assert slope(times, values) == pytest.approx(2.0)


def held(**changes):
    return Held(**({"rss_kib": 400_000.0, "files": 12, "threads": 10, "processes": 1, "connections": 0} | changes))


def test_what_stays_the_same_is_flat():
    assert check_flat([held(rss_kib=400_000 + 100 * (k % 3)) for k in range(20)])["files_last"] == 12


@pytest.mark.parametrize("what", ["files", "threads", "processes"])
def test_one_more_than_before_is_a_leak(what):
    samples = [held()] * 10
    with pytest.raises(ViolationError, match=what):
        check_flat([*samples, held(**{what: 99})])


def test_memory_that_grows_with_every_scenario_is_a_leak():
    with pytest.raises(ViolationError, match="memory"):
        check_flat([held(rss_kib=400_000 + 2048 * k) for k in range(20)])


@pytest.mark.parametrize(("growth", "is_leak"), [(20.0, False), (500.0, True)])
def test_an_hour_shows_a_slow_leak(growth, is_leak):
    report = SoakReport(60.0, afterwards=held())
    report.samples = [Sample(60.0 * k, held(rss_kib=400_000 + growth * k + 300 * (k % 7))) for k in range(60)]
    if is_leak:
        with pytest.raises(ViolationError, match="memory grows by"):
            check_steady(report, held())
    else:
        check_steady(report, held())
    assert report.slope_kib_per_min == pytest.approx(growth, abs=30)


def test_what_the_server_says_of_tracks_is_understood(tmp_path):
    server = Server(None, tmp_path, tmp_path)
    server.log.write_text(
        "2026-01-01 INFO demon.serve: track 64aa.0: DEMON 0.1.0 at 48000 Hz\n"
        "2026-01-01 INFO demon.serve: track 64bb.1: test at 44100 Hz\n"
        "2026-01-01 INFO demon.serve: track 64aa.2: DEMON 0.1.0 at 48000 Hz\n"
        "2026-01-01 INFO demon.serve: track 64bb.1 left\n"
        "2026-01-01 WARNING demon.serve: track 64aa: E_FEED_GAP: 5 is not 4\n"
    )
    assert server.greeted() == 3
    assert server.known_tracks() == {"64aa"}
    assert server.complaints() == []
    with server.log.open("a") as log:
        log.write("2026-01-01 INFO demon.serve: track 64aa.2 fell silent\n2026-01-01 ERROR demon.engine: it failed\n")
    assert server.known_tracks() == set()
    assert len(server.complaints()) == 1


def test_a_track_is_where_it_was_sent_and_greeted_and_goes_with_its_engine(tmp_path):
    fleet = FleetServer(None, tmp_path, tmp_path)
    first, second = (fleet.port + 2 * number for number in (1, 2))

    def say(*lines):
        with fleet.log.open("a") as log:
            log.writelines(f"{line}\n" for line in lines)

    say(f"2026-01-01 INFO demon.gateway: track 64aa goes to tcp://*:{first}")
    assert fleet.engine_of_track() is None
    say("2026-01-01 INFO demon.serve: track 64aa.0: DEMON 0.1.0 at 48000 Hz")
    assert fleet.engine_of_track() == 0
    say(f"2026-01-01 INFO demon.gateway: track 64bb goes to tcp://*:{second}")
    say("2026-01-01 INFO demon.serve: track 64bb.0: DEMON 0.1.0 at 48000 Hz")
    assert fleet.engine_of_track() == 1
    assert fleet.known_tracks() == {"64aa", "64bb"}
    say(f"killed: the engine at port {first}")
    assert fleet.known_tracks() == {"64bb"}
    say("2026-01-01 INFO demon.serve: track 64bb.0 left")
    assert fleet.known_tracks() == set()


def test_an_engine_that_ends_by_itself_is_a_complaint(tmp_path):
    fleet = FleetServer(None, tmp_path, tmp_path)
    line = "2026-01-01 ERROR demon.fleet: the engine at process 17 ended with status -9; it is started again\n"
    fleet.log.write_text(line)
    assert len(fleet.complaints()) == 1
    fleet._killed.add(17)
    assert fleet.complaints() == []
    fleet.log.write_text(line.replace("-9", "1"))
    assert len(fleet.complaints()) == 1


def test_a_gateway_that_holds_more_with_every_engine_that_dies_is_a_leak():
    outcomes = [Outcome(str(k), "dawdreamer", held=held(files=20 + k), life=1) for k in range(4)]
    with pytest.raises(ViolationError, match="files"):
        check_lives(outcomes)
    for k, outcome in enumerate(outcomes):
        outcome.life = k
    assert check_lives(outcomes) == {}  # each is another gateway


def test_what_lies_in_a_folder_is_found(tmp_path):
    check_no_files(tmp_path)
    (tmp_path / "left").touch()
    with pytest.raises(ViolationError, match="left"):
        check_no_files(tmp_path)


def test_a_probe_log_is_followed_line_by_line(tmp_path):
    path = tmp_path / "probe.jsonl"
    watch = ProbeWatch(path)
    line = '{"playing":1,"offline":0,"connected":%d,"wet":%d,"late":0}\n'
    with path.open("w", buffering=1) as log:
        log.write(line % (0, 0))
        log.write(line % (1, 1) + '{"playing":1,"off')
    watch.close()
    assert watch.played == 2
    assert [one.is_connected for one in watch.seen] == [False, True]
    assert watch.first(0.0) == watch.seen[1].at
    assert watch.first(watch.seen[1].at + 1) is None


def test_a_process_that_stays_is_found_by_its_mark(monkeypatch):
    monkeypatch.setitem(os.environ, "DEMON_SOAK_RUN", "")
    mark = mark_run()
    check_no_processes(mark)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        with pytest.raises(ViolationError, match=str(process.pid)):
            check_no_processes(mark)
        process.stdin.close()
    check_no_processes(mark)
