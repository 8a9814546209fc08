# SPDX-License-Identifier: Apache-2.0
"""The stream around the ring: admission, pacing, changes in flight, failures, threads."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
import torch
from stand_ins import Affine, C, E, Flaky, L, Nonlinear, T, alone, prompt, request, ring_shape, tensor

from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.intake import QueueFullError
from engine_server.diffusion.pipeline import StreamPipeline
from engine_server.diffusion.request import ConditionEntry


def pipeline(depth=4, decoder=None, **options):
    return StreamPipeline(decoder or Nonlinear(), ring_shape(depth), **options)


def ids(completions):
    return [done.request_id for done in completions]


def short_prompt(tokens):
    """A condition of another length."""
    return ConditionEntry(tensor(tokens, tokens, E), torch.ones(tokens, dtype=torch.bool))


def test_a_live_mailbox_keeps_the_newest_and_reports_what_it_supersedes():
    stream = pipeline(1)
    assert [stream.submit(request(k)) for k in range(3)] == [[], [0], [1]]
    assert stream.stats().waiting == 1
    assert ids(stream.drain()) == [2]


def test_a_queue_keeps_order_and_loses_nothing():
    stream = pipeline(2, admission="queue")
    assert all(stream.submit(request(k)) == [] for k in range(9))
    assert ids(stream.drain()) == list(range(9))


def test_a_bounded_queue_refuses_what_it_cannot_hold():
    stream = pipeline(1, admission="queue", queue_limit=2)
    stream.submit(request(0))
    stream.submit(request(1))
    with pytest.raises(QueueFullError, match="2 requests"):
        stream.submit(request(2))
    assert ids(stream.drain()) == [0, 1]


@pytest.mark.parametrize(("depth", "steps"), [(1, 8), (2, 8), (3, 8), (4, 8), (5, 8), (8, 8), (8, 5), (3, 50), (4, 1)])
def test_a_full_queue_completes_in_steps_of_floor_or_ceil(depth, steps):
    stream = pipeline(depth, admission="queue")
    for number in range(3 * depth + 2):
        stream.submit(request(number, steps=steps))
    gaps = np.diff([done.finished_tick for done in stream.drain()])
    exact = max(steps / depth, 1)
    assert set(gaps) <= {np.floor(exact), np.ceil(exact)}


def test_explicit_timesteps_are_paced_by_their_own_number_of_steps():
    stream = pipeline(2, admission="queue")
    for number in range(6):
        stream.submit(request(number, steps=8, timesteps=[1.0, 0.7, 0.5, 0.2]))
    assert [done.finished_tick for done in stream.drain()] == [3, 5, 7, 9, 11, 13]


def test_a_warm_burst_fills_the_slots_at_once_and_spaces_what_follows():
    stream = pipeline(4, admission="queue", warm="burst")
    for number in range(12):
        stream.submit(request(number, steps=8))
    stream.tick()
    assert stream.busy == 4
    ticks = [done.finished_tick for done in stream.drain()]
    assert ticks[:4] == [7] * 4
    assert set(np.diff(ticks[4:])) == {2}


def test_waiting_does_not_save_credit_for_a_burst():
    stream = pipeline(2, admission="queue")
    for _ in range(30):
        stream.tick()
    for number in range(4):
        stream.submit(request(number, steps=8))
    started = [done.admitted_tick for done in stream.drain()]
    assert min(np.diff(started)) >= 3


def test_more_depth_in_flight_speeds_up_and_less_lets_the_surplus_finish():
    stream = pipeline(2, admission="queue")
    requests = [request(number, steps=8) for number in range(20)]
    for one in requests:
        stream.submit(one)
    finished = [done for _ in range(16) for done in stream.tick()]
    stream.set_depth(8)
    finished += [done for _ in range(16) for done in stream.tick()]
    flying = stream.busy
    assert flying > 2
    assert stream.set_depth(1) == []
    assert stream.busy == flying
    finished += [done for _ in range(8) for done in stream.tick()]
    assert stream.busy <= 1
    finished += stream.drain()
    assert sorted(ids(finished)) == list(range(20))
    for done in finished:
        assert torch.equal(done.latent, alone(done.request))


def test_less_depth_with_discard_drops_the_youngest_and_reports_them():
    stream = pipeline(4, admission="queue")
    for number in range(4):
        stream.submit(request(number, steps=4))
    for _ in range(4 - 1):
        stream.tick()
    assert stream.set_depth(1, discard=True) == [2, 1]
    assert ids(stream.drain()) == [0, 3]


@pytest.mark.parametrize("depth", [0, -1])
def test_a_depth_below_one_is_refused(depth):
    with pytest.raises(ValueError, match="depth"):
        pipeline(2).set_depth(depth)
    with pytest.raises(ValueError, match="depth"):
        pipeline(depth)


def test_cancel_forgets_what_waits_and_what_flies():
    stream = pipeline(1, admission="queue")
    for number in range(3):
        stream.submit(request(number))
    stream.tick()
    assert stream.cancel(0)
    assert stream.cancel(2)
    assert not stream.cancel(2)
    assert ids(stream.drain()) == [1]


def test_run_until_hands_out_everything_up_to_the_request():
    stream = pipeline(2, admission="queue")
    for number in range(5):
        stream.submit(request(number))
    assert ids(stream.run_until(2)) == [0, 1, 2]
    with pytest.raises(KeyError):
        stream.run_until(2)
    assert ids(stream.drain()) == [3, 4]


def test_what_a_failing_drain_had_finished_comes_with_the_next_one():
    stream = pipeline(2, Flaky([5, 6]), admission="queue")
    for number in range(4):
        stream.submit(request(number))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of memory"):
            stream.drain()
    assert ids(stream.drain()) == [0, 1, 2, 3]


@pytest.mark.parametrize("drop", [False, True])
def test_another_length_in_flight_finishes_beside_the_new_one(drop):
    stream = pipeline(2, admission="queue")
    mixed = [
        request(0),
        request(1),
        request(2, 17),
        request(3, 17),
        request(4),
        request(5, conditions=[short_prompt(3)]),
    ]
    for one in mixed:
        stream.submit(one)
    finished = []
    while stream.shape.frames == T:
        finished += stream.tick()
    dropped = stream.discard_leaving() if drop else []
    finished += stream.drain()
    assert sorted(ids(finished) + dropped) == list(range(6))
    assert bool(dropped) == drop
    assert all(done.finished_tick - done.admitted_tick == 3 for done in finished)
    ticks = [done.finished_tick for done in finished]
    assert ticks == sorted(ticks)
    for done in finished:
        if len(done.request.conditions[0].states) == L:
            assert torch.equal(done.latent, alone(done.request, frames=len(done.latent)))


def test_a_failure_at_one_length_loses_no_completion_of_another():
    """The old ring's forward comes first; its last step must not be taken when the new ring's forward fails."""
    decoder = Flaky([])
    stream = pipeline(2, decoder, admission="queue")
    stream.submit(request(0))
    stream.submit(request(1, 17))
    for _ in range(3):
        assert stream.tick() == []
    decoder._failing = {decoder.calls + 1}
    with pytest.raises(RuntimeError):
        stream.tick()
    assert ids(stream.tick()) == [0]
    assert ids(stream.drain()) == [1]


def test_failing_ticks_earn_no_credit():
    decoder = Flaky(range(1, 9))
    stream = pipeline(4, decoder, admission="queue")
    for number in range(4):
        stream.submit(request(number, steps=8))
    stream.tick()
    for _ in range(8):
        with pytest.raises(RuntimeError):
            stream.tick()
    assert [done.admitted_tick for done in stream.drain()] == [0, 2, 4, 6]


def test_a_request_that_cannot_be_encoded_waits_and_can_be_cancelled():
    class Deaf(Nonlinear):
        def encode(self, states, mask, adapters=None):
            if float(states.sum()) > 1e3:
                raise RuntimeError("no such adapter")
            return super().encode(states, mask, adapters)

    stream = pipeline(2, Deaf(), admission="queue")
    loud = ConditionEntry(torch.full((L, E), 1e3), torch.ones(L, dtype=torch.bool))
    stream.submit(request(0, conditions=[loud]))
    stream.submit(request(1))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="adapter"):
            stream.tick()
    assert stream.stats().waiting == 2
    assert stream.cancel(0)
    assert ids(stream.drain()) == [1]


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"dcw": DcwSettings(mode="pix", scaler=[0.1] * 5)}, "scaler"),
        ({"dcw": 0.1}, "dcw"),
        ({"adapters": torch.zeros(2, 2)}, "adapters"),
        ({"adapters": torch.tensor([float("nan")])}, "adapters"),
        ({"source": torch.full((T, C), float("inf"))}, "source"),
        ({"context": np.zeros((T, 2 * C))}, "context"),
        ({"steps": 2.5}, "steps"),
        ({"source": None, "timesteps": [0.5]}, "source"),
    ],
)
def test_what_would_fail_in_a_tick_is_refused_at_submit(bad, word):
    stream = pipeline()
    with pytest.raises(ValueError, match=word):
        stream.submit(request(0, **bad))
    assert stream.drain() == []


def test_a_request_begins_with_what_it_was_handed_in_with():
    source, target = tensor(1, T, C), tensor(2, T, C)
    expected = alone(request(source=source.clone(), target=target.clone(), denoise=0.5, x0_target=0.5))
    stream = pipeline()
    stream.submit(request(source=source, target=target, denoise=0.5, x0_target=0.5))
    source.zero_(), target.zero_()
    assert torch.equal(stream.drain()[0].latent, expected)


def test_a_caller_may_go_on_drawing_on_the_curves_of_a_request_that_waits():
    values = {"velocity_scale": 0.5, "source_blend": 0.7, "ode_noise": 0.2}
    expected = alone(request(**values, conditions=[prompt(1, weight=0.4), prompt(2)]))
    drawn = {name: np.full(T, value, dtype=np.float32) for name, value in values.items()}
    weight = torch.full((T,), 0.4)
    stream = pipeline()
    stream.submit(request(**drawn, conditions=[prompt(1, weight=weight), prompt(2)]))
    for curve in (*drawn.values(), weight):
        curve[:] = 9.0
    assert torch.equal(stream.drain()[0].latent, expected)


def test_stats_follow_the_stream():
    stream = pipeline(4)
    warmed = []
    for number in range(20):
        stream.submit(request(number, steps=4))
        stream.tick()
        stats = stream.stats()
        warmed.append(stats.is_warmed_up)
        assert (stats.ticks, stats.depth, stats.active_slots) == (number + 1, 4, stream.busy)
        assert stats.last_tick_ms > 0
    assert warmed == [False] * 3 + [True] * 17
    assert stream.stats().decoder_rows == 1 + 2 + 3 + 17 * 4


def test_decoder_rows_count_lengths_that_are_gone():
    stream = pipeline(2, admission="queue")
    for number, frames in enumerate([T, 13, 14, T]):
        stream.submit(request(number, frames))
        stream.drain()
    stream.close()
    assert stream.stats().decoder_rows == 16


def test_close_drops_everything_and_may_be_called_again():
    stream = pipeline(2, admission="queue")
    for number in range(5):
        stream.submit(request(number))
    stream.tick()
    stream.close()
    stream.close()
    assert stream.drain() == []
    stream.submit(request(9))
    assert torch.equal(stream.drain()[0].latent, alone(request(9)))


def test_shared_values_are_copies():
    values = {"velocity_scale": torch.full((T,), 0.5), "channel_gain": torch.full((1, C), 0.5)}
    weights = [torch.full((T,), 0.3), torch.full((T,), 0.7)]
    stream = pipeline()
    for name, value in values.items():
        stream.set_shared_curve(name, value)
    stream.set_shared_curve("temporal_weights", weights)
    for value in (*values.values(), *weights):
        value.fill_(9.0)
    snapshot = stream.controls.snapshot
    assert float(snapshot.curves["velocity_scale"].max()) == 0.5
    assert float(snapshot.channel_gain.max()) == 0.5
    assert float(snapshot.temporal_weights[1].max()) == pytest.approx(0.7)


def test_an_unknown_shared_name_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"velocity_scale.*source_blend"):
        pipeline().set_shared_curve("velocity", 1.0)


def test_correction_setters_of_several_threads_lose_no_field():
    stream = pipeline(dcw=DcwSettings())

    def set_many(name, last):
        for value in np.linspace(0.01, last, 100):
            stream.set_dcw(**{name: float(value)})

    fields = {"scaler": 0.5, "high_scaler": 0.4, "mult_blend": 0.3, "soft_thresh": 0.2}
    threads = [threading.Thread(target=set_many, args=item) for item in fields.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stream.controls.snapshot.dcw == DcwSettings(**fields)
    assert stream.controls.snapshot.version == 400


def test_submissions_and_setters_of_other_threads_meet_a_running_stream():
    """Every request is completed or reported as superseded, once; each step read one snapshot, never older than the last."""
    stream = pipeline(4)
    superseded, stop = [], threading.Event()

    def submitting(first):
        for number in range(first, first + 40):
            superseded.extend(stream.submit(request(number)))

    def setting():
        for value in itertools.cycle((0.5, 1.0)):
            if stop.is_set():
                return
            stream.set_shared_curve("velocity_scale", [value] * T)
            stream.set_shared_curve("sde_denoise_curve", value)
            stream.set_shared_curve("sde_denoise_curve", None)

    setter = threading.Thread(target=setting)
    threads = [threading.Thread(target=submitting, args=(100 * k,)) for k in range(3)]
    for thread in (setter, *threads):
        thread.start()
    finished = []
    while any(thread.is_alive() for thread in threads):
        finished += stream.tick()
    stop.set()
    setter.join()
    finished += stream.drain()
    assert sorted(ids(finished) + superseded) == sorted(100 * k + n for k in range(3) for n in range(40))
    for done in finished:
        assert list(done.control_versions) == sorted(done.control_versions)
        assert bool(torch.isfinite(done.latent).all())


def test_new_weights_are_heard_by_what_flies():
    class Weighted(Affine):
        factor = 1.0

        def encode(self, states, mask, adapters=None):
            return tuple(self.factor * each for each in super().encode(states, mask, adapters))

    decoder = Weighted()
    stream = pipeline(2, decoder)
    stream.submit(request(0))
    stream.tick()
    decoder.factor = 3.0
    stream.weights_changed()
    changed = stream.drain()[0].latent
    assert not torch.allclose(changed, alone(request(0), decoder=Affine()), atol=1e-3)


@pytest.mark.parametrize("option", [{"admission": "lifo"}, {"warm": "hot"}])
def test_an_unknown_option_is_refused(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        pipeline(**option)


def test_prompts_of_a_request_must_have_one_length():
    with pytest.raises(ValueError, match=r"conditions\[1\].states"):
        pipeline().submit(request(conditions=[prompt(1), short_prompt(3)]))
