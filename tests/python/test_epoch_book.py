# SPDX-License-Identifier: Apache-2.0
"""A track's epochs as its client knows them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_server.tracks.epoch_book import EpochBook
from shared_protocol.errors import DemonError
from shared_protocol.messages import MAX_OPEN_EPOCHS


def begin(book, epoch, frame=0):
    book.check_next(epoch)
    book.begin(epoch, frame)


def test_an_epoch_is_known_until_it_is_dropped():
    book = EpochBook()
    begin(book, 3, 7)
    book.feed(3, 20)
    assert book.positions == {3: 20}
    book.finish(3)
    assert book.positions == {3: 20}
    assert book.is_over(3)
    book.drop(3)
    assert book.positions == {}
    assert book.is_over(3)


def test_a_drop_before_the_begin_is_remembered():
    book = EpochBook()
    book.drop(5)
    assert book.is_over(5)
    assert not book.is_over(4)
    begin(book, 6)
    assert book.positions == {6: 0}


def test_numbers_must_grow():
    book = EpochBook()
    begin(book, 2)
    for epoch in (1, 2):
        with pytest.raises(DemonError, match="E_EPOCH"):
            book.check_next(epoch)


def test_unfinished_epochs_are_limited_and_finished_ones_make_room():
    book = EpochBook()
    for epoch in range(1, MAX_OPEN_EPOCHS + 1):
        begin(book, epoch)
    with pytest.raises(DemonError, match="E_LIMIT"):
        book.check_next(MAX_OPEN_EPOCHS + 1)
    book.finish(10)
    begin(book, MAX_OPEN_EPOCHS + 1)
    assert 10 not in book.positions
    assert len(book.positions) == MAX_OPEN_EPOCHS


@given(st.lists(st.tuples(st.sampled_from(["begin", "finish", "drop"]), st.integers(1, 200)), max_size=300))
def test_what_is_kept_is_bounded(actions):
    book = EpochBook()
    for action, epoch in actions:
        if action == "begin" and not book.is_over(epoch):
            try:
                begin(book, epoch)
            except DemonError:
                continue
        elif action == "finish" and epoch in book.positions:
            book.finish(epoch)
        elif action == "drop":
            book.drop(epoch)
            assert book.is_over(epoch)
        assert len(book.positions) <= MAX_OPEN_EPOCHS
