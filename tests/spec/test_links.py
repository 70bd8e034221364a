"""Links: directions, roads over the host, what is shared, what is broken."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitioner import Cluster, Device, Link, SpecError

NAMES = ("cuda:0", "cuda:1", "cuda:2")


def cluster(*links: Link, devices: tuple[str, ...] = NAMES) -> Cluster:
    return Cluster(tuple(Device(name, memory="1GiB") for name in devices), links)


def test_each_direction_has_its_own_figures() -> None:
    there = Link(source="cuda:0", destination="cuda:1", bandwidth="10GB/s", latency="1ms")
    back = Link(source="cuda", destination="cuda:1", bandwidth="1GB/s")
    assert back.ends == ("cuda:0", "cuda:1")
    back = Link(source="cuda:1", destination="cuda:0", bandwidth="1GB/s")
    pair = cluster(there, back)
    assert pair.transfer_seconds("cuda:0", "cuda:1", 10**9) == pytest.approx(0.101)
    assert pair.transfer_seconds("cuda:1", "cuda:0", 10**9) == 1.0


def test_one_direction_leaves_the_other_to_the_default() -> None:
    one = cluster(Link(source="cuda:0", destination="cuda:1", bandwidth=1.0))
    assert one.link("cuda:1", "cuda:0") == cluster().link("cuda:1", "cuda:0")


def test_staged_transfers_take_both_hops() -> None:
    staged = cluster(
        Link(("cuda:0", "cuda:1"), via="cpu"),
        Link(("cuda:0", "cpu"), "2GB/s", "1ms"),
        Link(source="cpu", destination="cuda:1", bandwidth="1GB/s", latency="2ms"),
    )
    assert staged.transfer_seconds("cuda:0", "cuda:1", 10**9) == pytest.approx(1.503)
    road = staged.road("cuda:0", "cuda:1")
    assert [link.ends for link in road] == [("cuda:0", "cpu"), ("cpu", "cuda:1")]
    assert [link.shared for link in road] == [("cuda:0 → cpu",), ("cpu → cuda:1",)]


def test_a_direct_copy_to_the_host_shares_its_link_with_staged_ones() -> None:
    staged = cluster(Link(("cuda:0", "cuda:1"), via="cpu"), devices=("cuda:0", "cuda:1", "cpu"))
    assert staged.road("cuda:0", "cpu")[0].shared == ("cuda:0 → cpu",)
    plain = cluster(devices=("cuda:0", "cpu"))
    assert plain.road("cuda:0", "cpu")[0].shared == ()


def test_a_hop_that_shares_a_switch_shares_that() -> None:
    staged = cluster(
        Link(("cuda:0", "cuda:1"), via="cpu"),
        Link(source="cuda:0", destination="cpu", bandwidth=1, shared="switch up"),
    )
    assert staged.road("cuda:0", "cuda:1")[0].shared == ("switch up",)


@pytest.mark.parametrize("pair", [("cuda:0", "cuda:1"), ("cuda:1", "cuda:0")])
def test_neither_direction_of_a_broken_link_is_used(pair: tuple[str, str]) -> None:
    broken = cluster(Link(source=pair[0], destination=pair[1], broken=True))
    for ends in (pair, pair[::-1]):
        assert broken.detour(*ends) == "cpu"
        assert len(broken.road(*ends)) == 2
    assert broken.detours == {pair: "cpu", pair[::-1]: "cpu"}
    assert broken.detour("cuda:0", "cuda:2") is None


def test_only_broken_links_need_moves_by_hand() -> None:
    assert cluster(Link(("cuda:0", "cuda:1"), via="cpu")).detours == {}


@pytest.mark.parametrize("kind", ["rtx-4090", "rtx-3090", "rtx-5090"])
def test_cards_without_peer_access_are_staged_unless_declared(kind: str) -> None:
    assert Cluster.of(f"2x{kind}").links == (Link(("cuda:0", "cuda:1"), via="cpu"),)
    bridge = Link(("cuda:0", "cuda:1"), "56.25GB/s")
    devices = Cluster.of(f"2x{kind}").devices
    assert Cluster.of(Cluster(devices, (bridge,))).links == (bridge,)


@pytest.mark.parametrize("kinds", ["2xa100-40gb", "2xrtx-a6000", "2x24GiB", "cuda:0=1GiB,cpu=1GiB"])
def test_other_devices_are_not(kinds: str) -> None:
    assert Cluster.of(kinds).links == ()


def test_one_card_without_peer_access_is_enough() -> None:
    mixed = Cluster.of("cuda:0=rtx-4090,cuda:1=a100-40gb,cuda:2=a100-40gb,cpu=1GiB")
    pairs = [link.between for link in mixed.links]
    assert pairs == [("cuda:0", "cuda:1"), ("cuda:0", "cuda:2")]


def test_reading_a_cluster_again_adds_nothing() -> None:
    once = Cluster.of("3xrtx-4090")
    assert Cluster.of(once) == once


figures = st.floats(1e-3, 1e13, allow_nan=False)


@st.composite
def any_links(draw: st.DrawFn) -> tuple[Link, ...]:
    """At most one link for each direction, of every form."""
    links: list[Link] = []
    shared = st.lists(st.sampled_from(["nic", 'a "b"', "c\nd", "é"]), max_size=2).map(tuple)
    for a, b in (("cuda:0", "cuda:1"), ("cuda:0", "cuda:2"), ("cuda:1", "cuda:2")):
        form = draw(st.sampled_from(["none", "both", "one", "two", "via", "broken"]))
        if form in ("one", "two"):
            for source, destination in ((a, b), (b, a))[: 1 + (form == "two")]:
                links.append(
                    Link(
                        source=source,
                        destination=destination,
                        bandwidth=draw(figures),
                        latency=draw(st.floats(0, 10)),
                        shared=draw(shared),
                    )
                )
        elif form == "both":
            links.append(Link((a, b), draw(figures), draw(st.floats(0, 1)), shared=draw(shared)))
        elif form != "none":
            both = draw(st.booleans())
            ends = {"between": (a, b)} if both else {"source": a, "destination": b}
            links.append(Link(**ends, **{form: "cpu" if form == "via" else True}))  # type: ignore[arg-type]
    if draw(st.booleans()):
        links.append(Link(("cpu", "cuda:1"), draw(figures), draw(st.floats(0, 1))))
    return tuple(links)


@settings(max_examples=50, deadline=None)
@given(any_links())
def test_a_cluster_file_reads_back_equal(tmp_path_factory: object, links: tuple[Link, ...]) -> None:
    made = cluster(*links)
    path = tmp_path_factory.mktemp("clusters") / "cluster.toml"  # type: ignore[attr-defined]
    path.write_text(made.to_toml({link: "two\nlines" for link in links}), encoding="utf-8")
    assert Cluster.of(path) == made


@settings(max_examples=50, deadline=None)
@given(any_links(), st.integers(1, 10**12))
def test_a_road_takes_as_long_as_its_hops(links: tuple[Link, ...], nbytes: int) -> None:
    made = cluster(*links)
    for source, destination in permutations(NAMES, 2):
        road = made.road(source, destination)
        assert road[0].ends[0] == source
        assert road[-1].ends[1] == destination
        hops = sum(link.seconds(nbytes) for link in road)
        assert made.transfer_seconds(source, destination, nbytes) == hops


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: Link(bandwidth=1), "between two devices, or from one"),
    (lambda: Link(source="cuda:0", bandwidth=1), "between two devices, or from one"),
    (lambda: Link(("cuda:0", "cuda:1"), 1, source="cuda:0"), "not both"),
    (lambda: Link(source="cuda:0", destination="cuda", bandwidth=1), "to itself"),
    (lambda: Link(source="cuda:0", destination="cuda:1"), "from 'cuda:0' to 'cuda:1': the bandw"),
    (lambda: Link(("cuda:0", "cuda:1"), 1, via="cpu"), "declare those"),
    (lambda: Link(("cuda:0", "cuda:1"), shared="x", via="cpu"), "declare those"),
    (lambda: Link(("cuda:0", "cuda:1"), via="cuda:2"), "via must be a host such as 'cpu'"),
    (lambda: Link(("cuda:0", "cpu"), via="cpu"), "one of its ends"),
    (lambda: Link(("cuda:0", "cpu"), broken=True), "no other way leads there"),
    (lambda: Link(("cuda:0", "cuda:1"), 1, shared=("",)), "shared must be a name"),
    (lambda: Link(("cuda:0", "cuda:1"), 1, shared=3), "shared must be a name"),  # type: ignore[arg-type]
    (
        lambda: cluster(
            Link(("cuda:0", "cuda:1"), 1),
            Link(source="cuda:1", destination="cuda:0", bandwidth=1),
        ),
        "two links from 'cuda:1' to 'cuda:0'",
    ),
    (
        lambda: cluster(Link(("cuda:0", "cpu:1"), via="cpu"), Link(("cpu:1", "cuda:0"), 1)),
        "two links between",
    ),
    (
        lambda: cluster(
            Link(("cuda:0", "cuda:1"), via="cpu"), Link(("cuda:1", "cpu"), via="cpu:1")
        ),
        "cannot be crossed either",
    ),
]


@pytest.mark.parametrize(("build", "fragment"), BAD)
def test_links_that_make_no_sense(build: Callable[[], object], fragment: str) -> None:
    with pytest.raises(SpecError) as error:
        build()
    assert fragment in str(error.value)


TWO = "".join(f'[[device]]\nname = "cuda:{i}"\nmemory = "1GiB"\n' for i in range(2))
BAD_FILES = [
    ("from = 'cuda:0'\nbandwidth = 1", "link 1: the key 'to' is missing"),
    ("to = 'cuda:0'\nbandwidth = 1", "link 1: the key 'from' is missing"),
    ("from = 'cuda:0'\nto = 'cuda:1'", "link 1: the key 'bandwidth' is missing"),
    ("from = 'cuda:0'\nto = 'cuda:1'\nbandwith = 1", "did you mean 'bandwidth'"),
    ("between = ['cuda:0', 'cuda:1']\nshare = 'x'\nbandwidth = 1", "did you mean 'shared'"),
    ("between = ['cuda:0', 'cuda:1']\nbroken = 'yes'", "'broken' must be a true or false"),
    ("between = ['cuda:0', 'cuda:1']\nbroken = false", "the key 'bandwidth' is missing"),
    ("between = ['cuda:0', 'cuda:1']\nvia = true", "'via' must be a text"),
    ("between = ['cuda:0', 'cuda:1']\nbandwidth = 1\nshared = [1]", "shared must be a name"),
]


@pytest.mark.parametrize(("text", "fragment"), BAD_FILES)
def test_bad_links_in_a_cluster_file(tmp_path: Path, text: str, fragment: str) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(f"{TWO}[[link]]\n{text}")
    with pytest.raises(SpecError) as error:
        Cluster.of(path)
    assert fragment in str(error.value)
    assert "cluster.toml" in str(error.value)
