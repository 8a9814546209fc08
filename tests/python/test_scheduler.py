# SPDX-License-Identifier: Apache-2.0
"""Who gets the next slot: ranks, deadlines, turns, and that nobody who may have one is left out. No clock, no tensors."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_server.tracks.scheduler import (
    MOST_HELD_BACK,
    MOST_PASSED_OVER,
    Precedence,
    Queue,
    Scheduler,
    Waiting,
)
from engine_server.tracks.windows import HopId, Rank

NOW = 100.0


def hop(name, rank=Rank.OFFLINE, deadline=float("inf"), number=0):
    return Waiting(HopId(name, 1, number), rank, deadline)


ranks = st.sampled_from([Rank.LOOP, Rank.OFFLINE])
live = st.floats(NOW - 10, NOW + 10, allow_nan=False).map(lambda deadline: (Rank.LIVE, deadline))
others = ranks.map(lambda rank: (rank, float("inf")))
crowds = st.lists(st.one_of(live, others), min_size=1, max_size=20).map(
    lambda kinds: [hop(f"t{k}", rank, deadline) for k, (rank, deadline) in enumerate(kinds)]
)


def served(crowd, slots, *, now=NOW):
    """Who gets so many slots of one ring, when all of a crowd have another hop as soon as one is taken."""
    scheduler, names = Scheduler(), []
    for _ in range(slots):
        scheduler.begin(crowd)
        chosen = scheduler.choose(crowd, now)
        scheduler.give(chosen, crowd, now)
        names.append(chosen.hop.track)
    return names


@given(crowds, st.integers(1, 40))
def test_nothing_gets_a_slot_while_a_live_stream_waits_for_it(crowd, slots):
    by_name = {each.hop.track: each for each in crowd}
    best = min(each.rank for each in crowd)
    for name in served(crowd, slots):
        assert (by_name[name].rank is Rank.LIVE) == (best is Rank.LIVE)


@given(crowds)
def test_the_earliest_deadline_that_can_be_met_comes_first(crowd):
    in_time = [each.deadline for each in crowd if each.rank is Rank.LIVE and each.deadline >= NOW]
    scheduler = Scheduler()
    scheduler.begin(crowd)
    if in_time:
        assert scheduler.choose(crowd, NOW).deadline == min(in_time)


@given(crowds)
def test_to_ask_changes_nothing(crowd):
    scheduler = Scheduler()
    scheduler.begin(crowd)
    assert scheduler.choose(crowd, NOW) is scheduler.choose(crowd, NOW)


@given(ranks, st.integers(1, 12), st.integers(1, 100))
def test_equals_take_turns(rank, count, slots):
    """At any time the served differ by one slot at most."""
    names = served([hop(f"t{k}", rank) for k in range(count)], slots)
    for stop in range(slots):
        shares = Counter(names[: stop + 1])
        assert max(shares.values()) - min(shares[f"t{k}"] for k in range(count)) <= 1


@given(st.integers(1, 12), st.integers(1, 60))
def test_late_hops_take_turns_however_late_they_are(count, slots):
    names = served([hop(f"t{k}", Rank.LIVE, NOW - 1 - k) for k in range(count)], slots)
    shares = Counter(names)
    assert max(shares.values()) - min(shares[f"t{k}"] for k in range(count)) <= 1


@given(st.integers(1, 6), st.integers(1, 6))
def test_loops_that_never_rest_leave_a_share_to_what_is_offline(loops, bounces):
    crowd = [hop(f"loop{k}", Rank.LOOP) for k in range(loops)] + [hop(f"bounce{k}") for k in range(bounces)]
    rounds = 4 * bounces
    names = served(crowd, rounds * (MOST_PASSED_OVER + 1))
    shares = Counter(name.rstrip("0123456789") for name in names)
    assert shares["bounce"] == rounds
    assert Counter(names)["bounce0"] == 4  # which they share


def test_a_stream_with_a_long_backlog_does_not_make_the_others_late_and_still_gets_on():
    crowd = [hop("behind", Rank.LIVE, NOW - 50), *(hop(f"t{k}", Rank.LIVE, NOW + k) for k in range(3))]
    names = served(crowd, 4 * (MOST_PASSED_OVER + 1))
    assert names.count("behind") == 4
    assert served([crowd[0], hop("bounce")], 3) == ["behind"] * 3


@given(st.lists(st.lists(st.integers(0, 5), max_size=6, unique=True), max_size=20))
def test_who_does_not_wait_is_forgotten(steps):
    scheduler = Scheduler()
    for waiting in steps:
        crowd = [hop(f"t{k}") for k in waiting]
        scheduler.begin(crowd)
        if crowd:
            scheduler.give(scheduler.choose(crowd, NOW), crowd, NOW)
        assert len(scheduler) == len(crowd)


def test_who_waited_keeps_the_place_when_the_hop_is_another():
    """A client that skips what it missed does not go to the end of the line."""
    scheduler = Scheduler()
    scheduler.begin([hop("a", number=3), hop("b")])
    scheduler.begin([hop("b"), hop("a", number=9)])
    assert scheduler.choose([hop("b"), hop("a", number=9)], NOW).hop.track == "a"


@pytest.mark.parametrize(("seconds", "is_late"), [(0.9, False), (1.1, True)])
def test_a_hop_is_late_when_it_takes_longer_than_there_is_time(seconds, is_late):
    assert hop("a", Rank.LIVE, NOW + 1).is_late(NOW, seconds) == is_late
    assert not hop("a", Rank.LOOP).is_late(NOW, seconds)


def test_others_stand_still_for_a_late_stream_but_not_for_good():
    precedence = Precedence()
    decisions = [precedence.decide(is_late=True) for _ in range(2 * (MOST_HELD_BACK + 1))]
    assert decisions == 2 * ([True] * MOST_HELD_BACK + [False])
    assert not precedence.decide(is_late=False)


@given(st.integers(1, 10), st.integers(1, 4), st.integers(1, 40))
def test_pieces_of_work_are_done_in_turn(count, most, steps):
    queue, done = Queue(), Counter()
    lines = [(f"t{k}", 1) for k in range(count)]
    for _ in range(steps):
        chosen = queue.next(lines, most)
        assert len(chosen) == min(most, count)
        done.update(chosen)
        assert max(done.values()) - min(done[line] for line in lines) <= 1


def test_who_has_work_again_comes_after_those_who_waited_for_theirs():
    queue = Queue()
    assert queue.next([("a", 1), ("b", 1)], 1) == [("a", 1)]
    assert queue.next([("b", 1), ("c", 1)], 1) == [("b", 1)]
    assert queue.next([("a", 1), ("b", 1), ("c", 1)], 1) == [("c", 1)]
