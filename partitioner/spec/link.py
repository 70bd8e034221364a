"""`Link`: what joins two devices, in one direction or in both.

::

    cuda:0 ◄────────────► cuda:1      Link(("cuda:0", "cuda:1"), "300GB/s")
    cuda:0 ─────────────► cuda:1      Link(source="cuda:0", destination="cuda:1", ...)
    cuda:0 ──► cpu ──► cuda:1         Link(("cuda:0", "cuda:1"), via="cpu"): staged over the host
    cuda:0 ──┐      ┌──► cuda:2
             ├ nic0 ┤                 shared="nic0": one thing that carries one transfer at a time
    cuda:1 ──┘      └──► cuda:3
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch

from cost_models import DEFAULT_LINK
from partitioner.errors import SpecError
from partitioner.spec.device import device_name, positive
from partitioner.spec.sizes import parse_bandwidth, parse_seconds

ASSUMED_LINK = DEFAULT_LINK
"""The kind of link that is assumed between two devices where none is declared."""
HOST = "cpu"
"""Over whose memory a broken link is bypassed."""


@dataclass(frozen=True, slots=True)
class Link:
    """What joins two devices: `between` them, the same both ways, or from one to the other.

    An end may be the host, `"cpu"`, whether or not nodes can run there.

    Attributes:
        between: two device names; `None` for one direction.
        bandwidth: bytes per second; a text such as `"300GB/s"` is accepted and normalised. `None`
            where nothing crosses the link itself: `via` or `broken`.
        latency: seconds; a text such as `"5us"` is accepted and normalised.
        source: device name, of a link in one direction.
        destination: likewise.
        via: the host over whose memory every transfer goes, in two hops that take the links to
            that host. So it is between GPUs without peer access.
        shared: names of what this link has in common with others, such as a PCIe switch or a
            network card. Each carries one transfer at a time, whatever link and direction it
            belongs to; give each direction a name of its own where both can be busy at once.
        broken: copies arrive changed. Nothing crosses it: transfers go over the host, as with
            `via`, and a placed module makes that detour itself.

    Raises:
        SpecError: the two are one device, a figure makes no sense, or figures are missing or given
            where they have no meaning.
    """

    between: tuple[str, str] | None = None
    bandwidth: float | str | None = None
    latency: float | str = 0.0
    _: KW_ONLY
    source: str | None = None
    destination: str | None = None
    via: str | None = None
    shared: str | tuple[str, ...] = ()
    broken: bool = False

    def __post_init__(self) -> None:
        self._normalise_ends()
        first, second = self.ends
        if first == second:
            raise SpecError(f"a link from device '{first}' to itself")
        if self.broken and any(map(is_host, self.ends)):
            raise SpecError(
                f"{self}: it is broken, and no other way leads there; leave that device out"
            )
        if self.via is not None:
            self._normalise_via()
        elif self.bandwidth is None and not self.broken:
            raise SpecError(f"{self}: the bandwidth is missing")
        if self.bandwidth is not None:
            bandwidth = positive(self.bandwidth, parse_bandwidth, f"{self}: bandwidth")
            object.__setattr__(self, "bandwidth", bandwidth)
        latency = positive(self.latency, parse_seconds, f"{self}: latency", zero=True)
        object.__setattr__(self, "latency", latency)
        shared = (self.shared,) if isinstance(self.shared, str) else self.shared
        if not isinstance(shared, tuple | list) or not all(
            isinstance(name, str) and name for name in shared
        ):
            raise SpecError(f"{self}: shared must be a name or several, not {self.shared!r}")
        object.__setattr__(self, "shared", tuple(dict.fromkeys(shared)))

    def _normalise_ends(self) -> None:
        given = [name for name in (self.source, self.destination) if name is not None]
        if self.between is None:
            if len(given) != 2:
                raise SpecError("a link is between two devices, or from one (source) to another "
                                "(destination)")  # fmt: skip
            object.__setattr__(self, "source", device_name(self.source))
            object.__setattr__(self, "destination", device_name(self.destination))
            return
        if given:
            raise SpecError("a link is either between two devices or from one to another, not both")
        if not isinstance(self.between, tuple | list) or len(self.between) != 2:
            raise SpecError(f"a link is between two devices, not {self.between!r}")
        first, second = (device_name(name) for name in self.between)
        object.__setattr__(self, "between", (first, second))

    def _normalise_via(self) -> None:
        via = device_name(self.via)
        if not is_host(via):
            raise SpecError(f"{self}: via must be a host such as 'cpu', not '{via}'")
        if via in self.ends:
            raise SpecError(f"{self}: '{via}' is one of its ends, and cannot be on the way")
        if self.bandwidth is not None or self.latency or self.shared or self.broken:
            raise SpecError(
                f"{self}: nothing crosses it directly, so only the links to '{via}' have a "
                "bandwidth, a latency or a share in anything; declare those"
            )
        object.__setattr__(self, "via", via)

    def __str__(self) -> str:
        first, second = self.ends
        if self.between is None:
            return f"link from '{first}' to '{second}'"
        return f"link between '{first}' and '{second}'"

    @property
    def ends(self) -> tuple[str, str]:
        """Both devices, the source first where there is one direction."""
        if self.between is not None:
            return self.between
        assert self.source is not None
        assert self.destination is not None
        return self.source, self.destination

    @property
    def directions(self) -> tuple[tuple[str, str], ...]:
        """The pairs (source, destination) that it serves."""
        first, second = self.ends
        return ((first, second),) if self.between is None else ((first, second), (second, first))

    @property
    def detour(self) -> str | None:
        """The host over which transfers go instead of crossing the link; `None` if they do."""
        return HOST if self.broken else self.via

    @property
    def bytes_per_second(self) -> float:
        """The bandwidth as a number; only of a link that is crossed."""
        assert self.bandwidth is not None
        return float(self.bandwidth)

    @property
    def latency_seconds(self) -> float:
        """The latency as a number."""
        return float(self.latency)

    @property
    def lanes(self) -> tuple[str, ...]:
        """The names in `shared`."""
        return (self.shared,) if isinstance(self.shared, str) else self.shared

    def seconds(self, nbytes: int) -> float:
        """How long `nbytes` take from the first byte sent to the last one received."""
        return self.latency_seconds + nbytes / self.bytes_per_second


def is_host(name: str) -> bool:
    """Whether a device's name is that of a host's memory."""
    return torch.device(name).type == "cpu"
