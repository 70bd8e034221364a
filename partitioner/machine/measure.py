"""`measure_links`: how fast copies between devices are, and whether what arrives is what was sent.

Broken peer-to-peer copies raise nothing: what arrives is garbage. So random bytes of several sizes
go over each link and are compared with what was sent, by way of the host, whose own links are
checked first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from statistics import median, quantiles

import torch
from torch import Tensor

from partitioner.spec import HOST, format_nbytes, is_host

LARGE_NBYTES = 64 * 2**20
"""Of the copy that tells the bandwidth; less where a GPU has less than eight times that free."""
SMALL_NBYTES = 1024
"""Of the copy that tells the latency."""
CHECKED_NBYTES = (1, 4096, 2**20 + 3)
"""Sizes of the checked copies, besides the large one."""
WARM_UPS = 2
LARGE_REPEATS = 9
SMALL_REPEATS = 31

Copy = Callable[[Tensor, str], Tensor]
"""Makes the copy of a tensor on a device."""


@dataclass(frozen=True, slots=True)
class LinkMeasurement:
    """What copies from one device to another did.

    Attributes:
        source: device name.
        destination: device name.
        bytes_per_second: of a large copy, without the latency; the median.
        latency_seconds: of a copy of 1 KiB, from the call to its end; the median.
        spread: between the quartiles of the large copy's times, over their median.
        damaged_nbytes: sizes of the copies that arrived changed.
    """

    source: str
    destination: str
    bytes_per_second: float
    latency_seconds: float
    spread: float
    damaged_nbytes: tuple[int, ...] = ()


def measure_links(
    devices: Sequence[str],
    *,
    seed: int = 0,
    copy: Copy | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[LinkMeasurement, ...]:
    """Measure and check every pair of devices, and each device and the host, in both directions.

    Args:
        devices: names of GPUs that `torch.cuda` sees.
        seed: of the random bytes.
        copy: `None` is `tensor.to(device, copy=True)`.
        progress: called with a line of text at each pair.
    """
    copy = copy or (lambda tensor, device: tensor.to(device, copy=True))
    large = min([LARGE_NBYTES, *(torch.cuda.mem_get_info(name)[0] // 8 for name in devices)])
    sizes = sorted({*(size for size in CHECKED_NBYTES if size < large), large})
    generator = torch.Generator().manual_seed(seed)
    found = []
    pairs = [(name, HOST) for name in devices] + [(HOST, name) for name in devices]
    for source, destination in (*pairs, *permutations(devices, 2)):
        progress(f"measuring {source} → {destination}")
        sent = [torch.randint(256, (size,), dtype=torch.uint8, generator=generator)
                for size in sizes]  # fmt: skip
        damaged = [len(data) for data in sent if _damaged(data, source, destination, copy)]
        latency = median(_timed(source, destination, SMALL_NBYTES, SMALL_REPEATS, copy))
        times = list(_timed(source, destination, large, LARGE_REPEATS, copy))
        middle = median(times)
        first, _, third = quantiles(times, n=4)
        found.append(
            LinkMeasurement(
                source=source,
                destination=destination,
                bytes_per_second=large / (middle - latency if middle > latency else middle),
                latency_seconds=latency,
                spread=(third - first) / middle,
                damaged_nbytes=tuple(damaged),
            )
        )
    return tuple(found)


def damage(measurement: LinkMeasurement) -> str:
    """Which copies arrived changed, in words."""
    sizes = ", ".join(map(format_nbytes, measurement.damaged_nbytes))
    return f"copies of {sizes} arrived changed"


def _damaged(sent: Tensor, source: str, destination: str, copy: Copy) -> bool:
    """Whether a copy over one link differs from what was sent."""
    there = sent if is_host(source) else sent.to(source)
    _wait(source)
    arrived = copy(there, destination)
    _wait(source, destination)
    back = arrived if is_host(destination) else arrived.to(HOST)
    _wait(destination)
    return not torch.equal(back, sent)


def _timed(source: str, destination: str, nbytes: int, repeats: int, copy: Copy) -> Iterator[float]:
    """Seconds of each of several copies, from the call until both devices are done."""
    data = torch.zeros(nbytes, dtype=torch.uint8, device=source)
    for turn in range(WARM_UPS + repeats):
        _wait(source, destination)
        start = time.perf_counter()
        copy(data, destination)
        _wait(source, destination)
        if turn >= WARM_UPS:
            yield time.perf_counter() - start


def _wait(*devices: str) -> None:
    for device in devices:
        if not is_host(device):
            torch.cuda.synchronize(device)
