# SPDX-License-Identifier: Apache-2.0
"""What waits for the engine's thread: turns, urgency, and counts."""

from __future__ import annotations

import threading
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from engine_server.serve.inbox import Fed, Inbox, Waiting


def everything(inbox):
    items = []
    while (item := inbox.take(0.0)) is not None:
        items.append(item)
    return items


def test_clients_take_turns_however_much_one_of_them_sends():
    inbox = Inbox()
    for k in range(100):
        inbox.put(b"noisy", ("noisy", k), is_urgent=False)
    inbox.put(b"calm", ("calm", 0), is_urgent=False)
    assert [inbox.take(0.0)[0] for _ in range(2)] == ["noisy", "calm"]


def test_what_is_urgent_overtakes_the_rest_of_its_client():
    inbox = Inbox()
    inbox.put(b"x", "feed", is_urgent=False, frames=25, size=100)
    inbox.put(b"x", "drop", is_urgent=True)
    assert inbox.waiting(b"x") == Waiting(2, 25, 100)
    assert inbox.size == 100
    assert everything(inbox) == ["drop", "feed"]
    assert inbox.waiting(b"x") == Waiting()
    assert inbox.size == 0


def test_frames_are_counted_by_epoch():
    inbox = Inbox()
    for epoch, frames, end in ((1, 25, 25), (2, 10, 70), (1, 5, 20)):
        inbox.put(b"x", epoch, is_urgent=False, epoch=epoch, frames=frames, end=end)
    assert [inbox.fed(b"x", epoch) for epoch in (1, 2, 3)] == [Fed(30, 25), Fed(10, 70), Fed()]
    assert [inbox.take(0.0) for _ in range(2)] == [1, 2]
    assert [inbox.fed(b"x", epoch) for epoch in (1, 2)] == [Fed(5, 25), Fed()]
    assert inbox.fed(b"y", 1) == Fed()


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.booleans(), st.integers(0, 64)), max_size=60))
def test_everything_comes_out_once_in_order_and_in_turn(puts):
    inbox = Inbox()
    for number, (client, is_urgent, frames) in enumerate(puts):
        inbox.put(client, (client, is_urgent, number), is_urgent=is_urgent, frames=frames, size=2 * frames)
    for client in (b"a", b"b", b"c"):
        mine = [put for put in puts if put[0] == client]
        frames = sum(size for _, _, size in mine)
        assert inbox.waiting(client) == Waiting(len(mine), frames, 2 * frames)
    items = everything(inbox)
    assert len(items) == len(puts)
    assert inbox.size == 0
    for client in (b"a", b"b", b"c"):
        mine = [item for item in items if item[0] == client]
        assert mine == sorted(mine, key=lambda item: (not item[1], item[2]))
    left = Counter(client for client, _, _ in puts)
    seen = Counter()
    for client, _, _ in items:
        seen[client] += 1
        others = [other for other in left if other != client and seen[other] < left[other]]
        assert all(seen[client] - seen[other] <= 1 for other in others)


def test_close_ends_a_wait():
    inbox = Inbox()
    taken = []
    thread = threading.Thread(target=lambda: taken.append(inbox.take(60.0)))
    thread.start()
    inbox.close()
    thread.join(30)
    assert taken == [None]
    inbox.put(b"x", 1, is_urgent=True)
    assert inbox.take(0.0) is None


def test_a_put_ends_a_wait():
    inbox = Inbox()
    taken = []
    thread = threading.Thread(target=lambda: taken.append(inbox.take(60.0)))
    thread.start()
    inbox.put(b"x", 1, is_urgent=False)
    thread.join(30)
    assert taken == [1]
