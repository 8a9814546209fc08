# SPDX-License-Identifier: Apache-2.0
"""What a client may ask: never more than its limits, never less, and a plugin is nowhere near them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_server.serve.limits import MIB, SWEPT_FROM, Account, Accounts, FloodError, Limits, Meter, TokenBucket
from engine_server.serve.worker import INPUT_CREDIT
from shared_protocol.errors import DemonError


class FakeClock:
    def __init__(self):
        self.now = 50.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return FakeClock()


def refused(call, *arguments):
    with pytest.raises(DemonError) as raised:
        call(*arguments)
    return raised.value.code


@given(
    per_s=st.integers(1, 1000), burst=st.integers(1, 1000),
    steps=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1200)), max_size=60),
)  # fmt: skip
def test_in_any_span_at_most_the_burst_and_the_rates_share_pass(per_s, burst, steps):
    """Steps in 1/16 s, so that all sums are exact."""
    clock = FakeClock()
    bucket = TokenBucket(per_s, burst, clock)
    taken = []
    for wait, amount in steps:
        clock.now += wait / 16
        could = bucket.can_take(amount)
        assert bucket.take(amount) == could
        if could:
            taken.append((clock.now, amount))
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            span = taken[last][0] - taken[first][0]
            assert sum(amount for _, amount in taken[first : last + 1]) <= burst + per_s * span


@given(per_s=st.integers(1, 1000), burst=st.integers(1, 1000), amounts=st.lists(st.integers(0, 1000), max_size=40))
def test_nothing_is_refused_that_keeps_to_the_rate(per_s, burst, amounts):
    clock = FakeClock()
    bucket = TokenBucket(per_s, burst, clock)
    for amount in amounts:
        amount = min(amount, burst)
        clock.now += amount / per_s + 1e-6
        assert bucket.take(amount)


def test_a_refusal_takes_nothing_and_a_pause_fills_up_to_the_burst(clock):
    bucket = TokenBucket(10, 5, clock)
    assert bucket.take(5)
    assert not bucket.take(1)
    assert not bucket.take(1)
    clock.now += 0.1
    assert bucket.take(1)
    clock.now += 1000
    assert bucket.is_full()
    assert not bucket.take(6)
    assert bucket.is_full()


def test_a_clock_that_steps_back_gives_nothing_and_takes_nothing(clock):
    bucket = TokenBucket(10, 5, clock)
    assert bucket.take(5)
    clock.now -= 100
    assert not bucket.take(1)
    clock.now += 100.5
    assert bucket.take(5)


@pytest.mark.parametrize(("per_s", "burst"), [(0, 1), (1, 0), (-1, 1), (float("nan"), 1)])
def test_buckets_hold_something(per_s, burst):
    with pytest.raises(ValueError, match="above 0"):
        TokenBucket(per_s, burst)


def test_too_many_messages_and_too_many_bytes_are_refused_by_name(clock):
    meter = Meter(Limits(messages_per_s=10, messages_burst=3, bytes_per_s=MIB, bytes_burst=MIB), clock)
    meter.admit(MIB)
    assert refused(meter.admit, 1) == "E_RATE"
    meter.admit(0)
    assert refused(meter.admit, 0) == "E_RATE"
    clock.now += 1
    assert meter.is_idle()
    meter.admit(MIB)


def test_patience_with_a_flood_ends_and_comes_back_with_calm(clock):
    meter = Meter(Limits(messages_per_s=10, messages_burst=3, patience=4), clock)
    for _ in range(2):
        refusals = []
        for _ in range(3 + 9):
            try:
                meter.admit(1)
            except DemonError as error:
                refusals.append(error)
        assert {error.code for error in refusals} == {"E_RATE"}
        ends = [number for number, error in enumerate(refusals, 1) if isinstance(error, FloodError)]
        assert ends == [4, 8]
        assert [error.size for error in refusals if isinstance(error, FloodError)] == [4, 4]
        clock.now += 1


def test_what_is_refused_now_and_then_is_no_flood(clock):
    meter = Meter(Limits(messages_per_s=10, messages_burst=3, patience=4), clock)
    for _ in range(20):
        for _ in range(3):
            meter.admit(1)
        assert refused(meter.admit, 1) == "E_RATE"
        clock.now += 1
    meter.admit(1)


def test_whoever_has_no_track_tries_patience_sooner(clock):
    limits = Limits(messages_per_s=10, messages_burst=8, patience=6, unknown=3)
    account = Account(limits, clock)
    for meter, most in ((account.meter, 3), (account.open_track(), 8)):
        for _ in range(most):
            meter.admit(1)
        refusals = []
        for _ in range(6):
            with pytest.raises(DemonError) as raised:
                meter.admit(1)
            refusals.append(isinstance(raised.value, FloodError))
        assert refusals == ([False, False, True] * 2 if most == 3 else [False] * 5 + [True])


def test_tracks_are_counted_per_client(clock):
    account = Account(Limits(tracks=2), clock)
    account.open_track()
    account.open_track()
    assert refused(account.open_track) == "E_BUSY"
    account.close_track()
    account.open_track()


def test_a_tracks_flood_costs_no_other_track_of_its_client(clock):
    account = Account(Limits(messages_burst=5), clock)
    noisy, quiet = account.open_track(), account.open_track()
    for _ in range(5):
        noisy.admit(1)
    assert refused(noisy.admit, 1) == "E_RATE"
    quiet.admit(1)
    account.meter.admit(1)


def test_accounts_are_kept_while_they_say_something(clock):
    accounts = Accounts(Limits(messages_per_s=1, messages_burst=1), most=2, clock=clock)
    first = accounts.of(b"one")
    first.meter.admit(0)
    assert accounts.of(b"one") is first
    accounts.of(b"two").open_track()
    assert refused(accounts.of, b"three") == "E_BUSY"
    clock.now += 1
    accounts.of(b"three")
    assert len(accounts) == 2
    assert accounts.of(b"two").tracks == 1


def test_accounts_that_say_nothing_are_forgotten_long_before_there_are_too_many(clock):
    accounts = Accounts(Limits(), clock=clock)
    accounts.of(b"stays").open_track()
    most = 0
    for number in range(1000):
        accounts.of(b"passing %d" % number)
        clock.now += 1
        most = max(most, len(accounts))
    assert most <= SWEPT_FROM + 1
    assert accounts.of(b"stays").tracks == 1


def test_accounts_are_not_looked_through_for_every_newcomer(clock, monkeypatch):
    sweeps = []
    monkeypatch.setattr(Accounts, "forget_idle", lambda _: sweeps.append(1))
    accounts = Accounts(Limits(), clock=clock)
    for number in range(2000):
        accounts.of(b"%d" % number).open_track()
    assert len(sweeps) <= 6


FRAME_BYTES = 2 * 4 * 192_000 // 25 + 256 * 4
"""Of the largest frame: 192 kHz, and 256 lanes."""


def send(meter, clock, *, count, frames, every_s):
    for _ in range(count):
        meter.admit(200 + frames * FRAME_BYTES)
        clock.now += every_s


@pytest.mark.parametrize("times", [1, 2])
def test_a_plugin_that_resumes_the_most_it_can_is_not_refused(clock, times):
    """Everything in no time at all: a clip of ten minutes, two references, and then the playing of a loop."""
    meter = Meter(Limits(), clock)
    for _ in range(times):
        send(meter, clock, count=600, frames=25, every_s=0.0)
        for _ in range(2 * 176):
            meter.admit(200 + 65_536 * 8)
        clock.now += 3.0  # a lost engine is noticed after 3 s
    for _ in range(2000):
        meter.admit(60)  # a ping each 0.05 s
        meter.admit(200 + 16 * 64)  # and edits
        clock.now += 0.05


def test_a_fast_bounce_at_the_highest_rate_is_not_refused(clock):
    meter = Meter(Limits(), clock)
    send(meter, clock, count=20_000, frames=2, every_s=0.001)  # 80 times real time


def test_two_references_at_the_highest_rate_may_wait_beside_the_feed():
    assert Limits().held_bytes >= 2 * INPUT_CREDIT * FRAME_BYTES + 2 * 11_520_000 * 8
