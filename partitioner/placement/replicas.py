"""Equal pipelines that train together: whether they are equal, and how their gradients are summed.

Rank `k` of all `R` replicas form a ring. In `2 (R - 1)` rounds each sends a share of `1 / R` of its
gradients to the next one (Patarasuk and Yuan, "Bandwidth Optimal All-reduce Algorithms", 2009); the
slowest link rules a round. All rings run at once, and what links share is taken in turn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise

from partitioner.errors import SpecError
from partitioner.placement.parts import AllReduce, LinkTraffic
from partitioner.schedule import Kind, Timetable
from partitioner.spec import Cluster, Link

Pipelines = Sequence[Sequence[str]]
"""By replica, its devices by rank."""


class Traffic:
    """What crosses each link in a step.

    Attributes:
        links: by source and destination.
        busy: seconds, by what carries one transfer at a time.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.links: dict[tuple[str, str], LinkTraffic] = {}
        self.busy: defaultdict[object, float] = defaultdict(float)

    def add(self, source: str, destination: str, nbytes: int, times: int = 1) -> None:
        """Count `times` transfers of `nbytes`."""
        road = self.cluster.road(source, destination)
        seconds = times * sum(link.seconds(nbytes) for link in road)
        old = self.links.get((source, destination), LinkTraffic(source, destination, 0, 0.0))
        self.links[source, destination] = LinkTraffic(
            source, destination, old.nbytes + times * nbytes, old.seconds + seconds
        )
        for link in road:
            for lane in _lanes(link):
                self.busy[lane] += times * link.seconds(nbytes)


def all_reduces(
    cluster: Cluster, pipelines: Pipelines, nbytes: Sequence[int]
) -> tuple[AllReduce, ...]:
    """By rank, how its gradients are summed over all replicas.

    Args:
        cluster: devices and links.
        pipelines: by replica, its devices by rank.
        nbytes: by rank, of its gradients.
    """
    roads = [
        [(cluster.road(*pair), _share(size, pipelines)) for pair in ring(pipelines, rank)]
        for rank, size in enumerate(nbytes)
    ]
    busy: defaultdict[object, float] = defaultdict(float)
    for hops in roads:
        for road, share in hops:
            for link in road:
                for lane in _lanes(link):
                    busy[lane] += link.seconds(share)
    rounds = _rounds(pipelines)
    return tuple(
        AllReduce(
            size,
            rounds
            * max(
                (
                    max(sum(link.seconds(share) for link in road), *_busiest(road, busy))
                    for road, share in hops
                ),
                default=0.0,
            )
            if size
            else 0.0,
        )
        for size, hops in zip(nbytes, roads, strict=True)
    )


def add_rings(traffic: Traffic, pipelines: Pipelines, nbytes: Sequence[int]) -> None:
    """Count what `all_reduces` sends."""
    for rank, size in enumerate(nbytes):
        for source, destination in ring(pipelines, rank) if size else ():
            traffic.add(source, destination, _share(size, pipelines), _rounds(pipelines))


def ring(pipelines: Pipelines, rank: int) -> tuple[tuple[str, str], ...]:
    """Who sends to whom."""
    members = [devices[rank] for devices in pipelines]
    return tuple(pairwise([*members, members[0]])) if len(members) > 1 else ()


def sums_begin(cluster: Cluster, pipelines: Pipelines, table: Timetable) -> tuple[float, ...]:
    """By rank, when its ring can begin: it is done, and the pipelines leave it its links.

    Values of the pipelines go first: what they still send over a network card that the ring needs
    too puts it off by as long as that takes.
    """
    lanes = cache(partial(_crossed, cluster, pipelines))
    sent = [
        (interval.start, interval.end, lanes(rank, interval.action.kind == Kind.FORWARD))
        for rank, row in enumerate(table.transfers)
        for interval in row
    ]
    begins = []
    for rank, end in enumerate(table.ends):
        needed = {
            lane
            for pair in ring(pipelines, rank)
            for link in cluster.road(*pair)
            for lane in _lanes(link)
        }
        later = (
            last - max(first, end)
            for first, last, taken in sent
            if last > end and not needed.isdisjoint(taken)
        )
        begins.append(end + sum(later))
    return tuple(begins)


def _crossed(cluster: Cluster, pipelines: Pipelines, rank: int, forward: bool) -> frozenset[object]:
    """What a message of a rank takes, in any of the pipelines."""
    there = (rank + (1 if forward else -1)) % len(pipelines[0])
    return frozenset(
        lane
        for devices in pipelines
        for link in cluster.road(devices[rank], devices[there])
        for lane in _lanes(link)
    )


def check_alike(cluster: Cluster, pipelines: Pipelines) -> None:
    """Refuse replicas that would not take equal times.

    Raises:
        SpecError: devices or links of the same rank differ; names them.
    """
    first = pipelines[0]
    for devices in pipelines[1:]:
        for one, other in zip(first, devices, strict=True):
            if cluster.device(one) != replace(cluster.device(other), name=one):
                raise SpecError(
                    f"replicas must be equal, and '{other}' is not as '{one}' is; take another "
                    "number of replicas"
                )
        for mine, theirs in zip(_neighbours(first), _neighbours(devices), strict=True):
            if _speed(cluster.road(*mine)) != _speed(cluster.road(*theirs)):
                raise SpecError(
                    f"replicas must be equal, and the link from '{theirs[0]}' to '{theirs[1]}' is "
                    f"not as that from '{mine[0]}' to '{mine[1]}'; take another number of replicas"
                )


def _neighbours(devices: Sequence[str]) -> Iterator[tuple[str, str]]:
    for one, other in pairwise(devices):
        yield one, other
        yield other, one


def _speed(road: Sequence[Link]) -> list[tuple[float, float]]:
    return [(link.latency_seconds, link.bytes_per_second) for link in road]


def _share(nbytes: int, pipelines: Pipelines) -> int:
    return -(-nbytes // len(pipelines))


def _rounds(pipelines: Pipelines) -> int:
    return 2 * (len(pipelines) - 1)


def _lanes(link: Link) -> tuple[object, ...]:
    """What carries one transfer at a time: what it shares with others, else itself."""
    return link.lanes or (link.ends,)


def _busiest(road: Sequence[Link], busy: Mapping[object, float]) -> Iterator[float]:
    return (busy[lane] for link in road for lane in _lanes(link))
