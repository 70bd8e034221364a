"""More devices of the same sort."""

from __future__ import annotations

from partitioner import Cluster, Device, Link
from partitioner.spec import with_twins


def test_twins_have_the_links_of_the_original() -> None:
    cluster = Cluster(
        (Device("cpu", memory="64GiB"), *(Device(f"cuda:{i}", memory="8GiB") for i in (0, 2))),
        (Link(("cuda:0", "cuda:2"), "300GB/s", "5us"), Link(("cpu", "cuda:0"), "16GB/s", "9us")),
    )
    larger = with_twins(cluster, "cuda:0", 2)
    assert larger.names == ("cpu", "cuda:0", "cuda:2", "cuda:3", "cuda:4")
    assert larger.device("cuda:4").memory == 8 << 30
    for source, target in (("cuda:3", "cuda:2"), ("cuda:3", "cuda:0"), ("cuda:4", "cuda:3")):
        assert larger.link(source, target).bandwidth == larger.link("cuda:0", "cuda:2").bandwidth
    assert larger.link("cpu", "cuda:4").bandwidth == cluster.link("cpu", "cuda:0").bandwidth


def test_where_nothing_is_declared_nothing_is_added() -> None:
    assert with_twins(Cluster.of("2x8GiB"), "cuda:1").links == ()
