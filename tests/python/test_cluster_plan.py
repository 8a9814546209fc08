# SPDX-License-Identifier: Apache-2.0
"""Which node gets an engine, which engine goes, and whether two engines give the same bits: without Ray."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine_server.cluster.plan import Need, Node, Post, decide, find_node, holds, shortage, unreachable
from engine_server.cluster.report import Identity, disagreement
from shared_protocol.errors import DemonError

NEED = Need(cpus=2, gpus=0)


def node(name, *, cpus=4, gpus=0, **fields):
    return Node(f"{name}-0123456789abcdef", name, "10.0.0.1", cpus, gpus, **fields)


def post(engine, where, *, tracks=0, is_serving=True, is_leaving=False):
    return Post(engine, where.id, tracks, is_serving, is_leaving)


A, B, C = node("a"), node("b"), node("c")


def test_engines_are_spread_evenly_and_no_node_gets_more_than_it_holds():
    assert decide(3, [A, B, C], [], NEED).start == (A.id, B.id, C.id)
    assert decide(4, [A, B], [post(1, A), post(2, A)], NEED).start == (B.id, B.id)
    assert decide(9, [A, B], [], NEED).missing == 5


def test_an_engine_that_leaves_still_takes_its_room():
    leaving = [post(1, A, is_leaving=True), post(2, A, is_leaving=True)]
    assert decide(1, [A], leaving, NEED).missing == 1


@pytest.mark.parametrize("closed", [{"is_drained": True}, {"trouble": "the checkpoint is not there"}])
def test_a_drained_or_troubled_node_gets_no_engine(closed):
    assert decide(2, [A, replace(B, **closed)], [], NEED).start == (A.id, A.id)


def test_engines_of_a_node_that_is_gone_are_replaced():
    assert decide(2, [A], [post(1, A), post(2, B)], NEED).start == (A.id,)


@pytest.mark.parametrize(
    ("need", "cpus", "gpus", "most"),
    [
        (Need(2, 0), 7, 0, 3),
        (Need(1, 1), 8, 2, 2),
        (Need(1, 2), 8, 3, 1),
        (Need(1, 0.5), 8, 1, 2),
        (Need(1, 0.3), 8, 2, 6),
        (Need(1, 1), 8, 0, 0),
    ],
)
def test_how_many_engines_a_node_holds(need, cpus, gpus, most):
    assert holds(node("a", cpus=cpus, gpus=gpus), need) == most


@pytest.mark.parametrize(("cpus", "gpus"), [(0, 0), (1, -1), (1, 1.5)])
def test_needs_that_ray_could_not_meet_are_refused(cpus, gpus):
    with pytest.raises(DemonError, match="E_FIELD"):
        Need(cpus, gpus)


def test_fewer_engines_end_those_that_nobody_misses():
    posts = [post(1, A, tracks=5), post(2, A, tracks=1), post(3, B), post(4, C, is_serving=False)]
    assert decide(3, [A, B, C], posts, NEED).leave == (4,)
    assert decide(2, [A, B, C], posts, NEED).leave == (4, 2)
    assert decide(1, [A, B, C], posts, NEED).leave == (4, 2, 3)
    assert decide(0, [A, B, C], posts, NEED).leave == (4, 2, 3, 1)


def test_a_drained_nodes_engine_leaves_when_another_serves_in_its_place():
    drained = replace(A, is_drained=True)
    posts = [post(1, A), post(2, B)]
    first = decide(2, [drained, B], posts, NEED)
    assert (first.start, first.leave) == ((B.id,), ())
    coming = [*posts, post(3, B, is_serving=False)]
    assert decide(2, [drained, B], coming, NEED).leave == ()
    assert decide(2, [drained, B], coming, NEED, hurried=frozenset([A.id])).leave == (1,)
    assert decide(2, [drained, B], [*posts, post(3, B)], NEED).leave == (1,)


def test_a_drained_nodes_engine_leaves_at_once_where_nothing_can_take_its_place():
    drained = replace(A, is_drained=True)
    assert decide(1, [drained], [post(1, A)], NEED).leave == (1,)
    full = [post(1, A), post(2, B), post(3, B)]
    assert decide(3, [drained, B], full, NEED).leave == (1,)
    assert decide(1, [drained, B], [post(1, A, is_serving=False)], NEED).leave == (1,)


def test_a_shortage_says_what_each_node_lacks():
    nodes = [A, node("small", cpus=1), replace(B, is_drained=True), replace(C, trouble="E_NO_CHECKPOINT: none")]
    text = shortage(2, nodes, [post(1, A), post(2, A)], Need(2, 1))
    assert "2 more engines" in text
    assert "2 CPU and 1 GPU" in text
    assert "small (small-01): it has 1 CPU and 0 GPU" in text
    assert "b (b-012345): drained" in text
    assert "E_NO_CHECKPOINT" in shortage(1, nodes, [], NEED)
    assert "there is no node" in shortage(1, [], [], NEED)


def test_a_node_is_found_by_name_address_and_beginning_of_its_id():
    other = Node("beef0123", "gpu", "10.0.0.2", 1, 1)
    nodes = [A, B, other]
    for text in ("gpu", "10.0.0.2", "beef", "beef0123"):
        assert find_node(text, nodes) is other
    for text, said in (("bee", "there is no node"), ("10.0.0.1", "may be"), ("nowhere", "the nodes are")):
        with pytest.raises(DemonError, match=said):
            find_node(text, nodes)


def test_engines_whose_bits_would_differ_disagree():
    first = Identity("tiny", "a" * 64, "eager cpu float32", "0.1.0", "torch 2.13.0", 2, "some processor")
    assert disagreement(first, replace(first, processor="another", checkpoint="another name")) == ""
    for change in ({"checkpoint_hash": "b" * 64}, {"backend": "compile"}, {"libraries": "torch 2"}, {"threads": 1}):
        assert str(next(iter(change.values()))) in disagreement(first, replace(first, **change))


@pytest.mark.parametrize(
    ("address", "has_keys", "reached"),
    [
        ("10.0.0.1", False, True),
        ("10.0.0.2", False, False),
        ("10.0.0.2", True, True),
        ("127.0.0.1", True, False),
    ],
)
def test_engines_are_placed_where_tracks_can_get_to_them(address, has_keys, reached):
    assert (unreachable(replace(A, address=address), "10.0.0.1", has_keys=has_keys) == "") == reached
