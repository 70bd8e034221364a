"""Sums over replicas against a ring that is played round by round."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitioner.errors import SpecError
from partitioner.placement import check_alike
from partitioner.placement.replicas import Traffic, add_rings, all_reduces, sums_begin
from partitioner.schedule import StageSeconds, orders, simulate
from partitioner.spec import Cluster, Device, Link, Network, Node


def played(
    nbytes: int, seconds: list[tuple[float, float]], members: int
) -> tuple[float, list[int]]:
    """When the last member has all sums, and what each has sent: every block goes round twice.

    Member `i` sends to the next by a link of `seconds[i]`: latency, and for each byte.
    """
    block = -(-nbytes // members)
    clock, sent = 0.0, [0] * members
    has = [{index: {member} for index in range(members)} for member in range(members)]
    for turn in range(2 * (members - 1)):
        moves = []
        for member in range(members):
            index = (member - turn) % members
            moves.append(((member + 1) % members, index, set(has[member][index])))
            sent[member] += block
        for target, index, terms in moves:
            has[target][index] |= terms
        clock += max(latency + block * each for latency, each in seconds)
    assert all(terms == set(range(members)) for blocks in has for terms in blocks.values())
    return clock, sent


@given(
    st.integers(1, 10**9),
    st.lists(st.tuples(st.floats(0, 1e-3), st.floats(1e8, 1e12)), min_size=2, max_size=6),
)
def test_a_ring_takes_as_long_as_its_slowest_link(
    nbytes: int, speeds: list[tuple[float, float]]
) -> None:
    count = len(speeds)
    names = [f"cuda:{i}" for i in range(count)]
    links = [
        Link(source=names[i], destination=names[(i + 1) % count], latency=latency, bandwidth=each)
        for i, (latency, each) in enumerate(speeds)
    ]
    cluster = Cluster(tuple(map(Device, names)), tuple(links))
    pipelines = [(name,) for name in names]
    (found,) = all_reduces(cluster, pipelines, [nbytes])
    seconds, sent = played(nbytes, [(latency, 1 / each) for latency, each in speeds], count)
    assert found.seconds == pytest.approx(seconds)
    traffic = Traffic(cluster)
    add_rings(traffic, pipelines, [nbytes])
    assert [traffic.links[link.ends].nbytes for link in links] == sent


def nodes(cards: int | None) -> Cluster:
    """Two nodes of two devices."""
    names = [f"cuda:{i}" for i in range(4)]
    network = Network(
        tuple(Node(tuple(names[i : i + 2]), "100GB/s", cards=cards) for i in (0, 2)), "1GB/s"
    )
    return Cluster(tuple(map(Device, names)), (), network)


def test_rings_that_share_a_card_take_turns() -> None:
    pipelines = [("cuda:0", "cuda:1"), ("cuda:2", "cuda:3")]
    sizes = [2 * 10**9, 10**9]
    own = [each.seconds for each in all_reduces(nodes(None), pipelines, sizes)]
    assert own == pytest.approx([2.0, 1.0])
    shared = [each.seconds for each in all_reduces(nodes(1), pipelines, sizes)]
    assert shared == pytest.approx([3.0, 3.0])


def test_nothing_to_sum_takes_no_time() -> None:
    pipelines = [("cuda:0", "cuda:1"), ("cuda:2", "cuda:3")]
    assert [each.seconds for each in all_reduces(nodes(None), pipelines, [0, 0])] == [0.0, 0.0]


def test_replicas_over_other_links_are_refused() -> None:
    cluster = nodes(None)
    check_alike(cluster, [("cuda:0", "cuda:1"), ("cuda:2", "cuda:3")])
    check_alike(cluster, [("cuda:0", "cuda:2"), ("cuda:1", "cuda:3")])
    with pytest.raises(SpecError, match="the link from 'cuda:3' to 'cuda:1'"):
        check_alike(cluster, [("cuda:0", "cuda:1"), ("cuda:3", "cuda:1")])


@pytest.mark.parametrize(("cards", "last"), [(None, 14.0), (1, 16.0)])
def test_sums_give_way_to_values_on_a_shared_card(cards: int | None, last: float) -> None:
    """Rank 3 is done after 14 s; rank 2 sends over the same card of its node from 16 s to 18 s."""
    names = [f"cuda:{i}" for i in range(8)]
    nodes = tuple(Node(tuple(names[i : i + 2]), "450GB/s", cards=cards) for i in range(0, 8, 2))
    cluster = Cluster(tuple(map(Device, names)), (), Network(nodes, "50GB/s"))
    table = simulate(orders("gpipe", 4, 1), [StageSeconds(1, 1, 1, send=2, send_back=2)] * 4)
    assert sums_begin(cluster, (names[:4], names[4:]), table) == (24.0, 22.0, 18.0, last)
