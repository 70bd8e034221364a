"""What `torch.cuda` and `torch.accelerator` tell and do while GPUs are virtual."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from partitioner.virtual.ledger import VirtualGpu
from partitioner.virtual.session import Session

_STATISTICS = (
    "allocation",
    "segment",
    "active",
    "inactive_split",
    "allocated_bytes",
    "reserved_bytes",
    "active_bytes",
    "inactive_split_bytes",
    "requested_bytes",
)
_POOLS = ("all", "small_pool", "large_pool")
_IN_USE = ("allocated_bytes", "reserved_bytes", "active_bytes", "requested_bytes")


@dataclass(frozen=True, slots=True)
class Properties:
    """What `torch.cuda.get_device_properties` gives; compute capability 8.0 is assumed."""

    name: str
    total_memory: int
    major: int = 8
    minor: int = 0
    multi_processor_count: int = 108
    warp_size: int = 32
    is_integrated: bool = False
    is_multi_gpu_board: bool = False


class Event:
    """A point in time on a stream; nothing here is asynchronous."""

    def __init__(self, enable_timing: bool = False, **options: object) -> None:
        self._seconds: float | None = None

    def record(self, stream: object = None) -> None:
        """Note the time."""
        self._seconds = time.perf_counter()

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds from this event to another."""
        if self._seconds is None or end_event._seconds is None:
            raise RuntimeError("Both events must be recorded before calculating elapsed time.")
        return (end_event._seconds - self._seconds) * 1e3

    def query(self) -> bool:
        """Whether all work before it is done."""
        return True

    def synchronize(self) -> None:
        """Wait for it."""

    def wait(self, stream: object = None) -> None:
        """Make a stream wait for it."""


class Stream:
    """A queue of work that is done at once."""

    def __init__(self, device: object = None, priority: int = 0, **options: object) -> None:
        self.device = torch.device("cuda", torch.cuda._utils._get_device_index(device, True))
        self.priority = priority
        self.stream_id = self.cuda_stream = self.device_index = self.device.index

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *failure: object) -> None:
        pass

    def synchronize(self) -> None:
        """Wait for its work."""

    def query(self) -> bool:
        """Whether its work is done."""
        return True

    def is_capturing(self) -> bool:
        """Whether a graph is being captured."""
        return False

    def record_event(self, event: Event | None = None) -> Event:
        """Note the time in an event."""
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Wait for an event."""

    def wait_stream(self, stream: Stream) -> None:
        """Wait for another stream."""


class Cuda:
    """The replaced functions of `torch.cuda`, for one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._seeded: set[int] = set()

    def gpu(self, device: object = None) -> VirtualGpu:
        """The virtual GPU that an argument of `torch.cuda` functions means."""
        index = (
            device if isinstance(device, int) else torch.cuda._utils._get_device_index(device, True)
        )
        return self._session.gpu(index)

    def device_count(self) -> int:
        """One more than the highest index."""
        return self._session.device_count

    def is_available(self) -> bool:
        """Whether there is any."""
        return self._session.device_count > 0

    def current_device(self) -> int:
        """The index of the current one."""
        return self._session.current

    def exchange_device(self, index: int) -> int:
        """Make another the current one, unless negative; the index of the one before."""
        before = self._session.current
        if index >= 0:
            self._session.gpu(index)
            self._session.current = index
        return before

    def set_device(self, device: Any) -> None:
        """Make another the current one."""
        self.exchange_device(torch.cuda._utils._get_device_index(device))

    def can_device_access_peer(self, device: Any, peer_device: Any) -> bool:
        """Whether the link between two devices does not lead over the host."""
        link = self._session.cluster.declared_link(
            self.gpu(device).name, self.gpu(peer_device).name
        )
        return link is None or link.via is None

    def get_device_properties(self, device: Any = None) -> Properties:
        """Name and memory."""
        index = torch.cuda._utils._get_device_index(device, True)
        if f"cuda:{index}" not in self._session.gpus:
            raise AssertionError("Invalid device id")
        gpu = self._session.gpu(index)
        return Properties(gpu.kind or "Virtual GPU", gpu.limit_nbytes)

    def memory_statistics(self, device: Any = None) -> dict[str, Any]:
        """As CUDA's allocator counts; what it does not know here is 0."""
        gpu = self.gpu(device)
        none = {"current": 0, "peak": 0, "allocated": 0, "freed": 0}
        used = none | {"current": gpu.allocated_nbytes, "peak": gpu.peak_nbytes}
        counts: dict[str, Any] = {
            name: {
                pool: dict(used if pool == "all" and name in _IN_USE else none) for pool in _POOLS
            }
            for name in _STATISTICS
        }
        counts |= {"oversize_allocations": dict(none), "oversize_segments": dict(none)}
        return counts | {"num_alloc_retries": 0, "num_ooms": 0, "max_split_size": -1}

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        """Start measuring the peak anew."""
        self.gpu(device).reset_peak()

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        """Free and total bytes."""
        gpu = self.gpu(device)
        return gpu.limit_nbytes - gpu.allocated_nbytes, gpu.limit_nbytes

    def synchronize(self, device: Any = None) -> None:
        """Nothing is asynchronous; the device must exist."""
        self.gpu(device)

    def manual_seed(self, seed: int) -> None:
        """Seeds the one generator that all virtual devices and the CPU share."""
        torch.default_generator.manual_seed(int(seed))

    def seed(self) -> None:
        """Seeds it with a number of the system's."""
        torch.default_generator.seed()

    def initial_seed(self) -> int:
        """The seed that it has."""
        return torch.default_generator.initial_seed()

    def get_rng_state(self, device: Any = "cuda") -> torch.Tensor:
        """The state of the shared generator."""
        return torch.default_generator.get_state()

    def set_rng_state(self, new_state: torch.Tensor, device: Any = "cuda") -> None:
        """Put the shared generator in that state."""
        torch.default_generator.set_state(new_state)

    def get_rng_state_all(self) -> list[torch.Tensor]:
        """The same state, once for each device."""
        return [self.get_rng_state() for _ in range(self._session.device_count)]

    def set_rng_state_all(self, new_states: Any) -> None:
        """Put the shared generator in the last of the states."""
        for state in new_states:
            self.set_rng_state(state)

    def current_stream(self, device: Any = None) -> Stream:
        """A stream of that device."""
        return Stream(device)

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        """Run on a stream: on its device, at once."""
        before = self.exchange_device(-1 if stream is None else stream.device_index)
        try:
            yield
        finally:
            self.exchange_device(before)


def cuda_patches(session: Session) -> Iterator[tuple[Any, str, Any]]:
    """Owner, name and replacement of everything that ordinary training code calls."""
    cuda = Cuda(session)

    def nothing(*args: object, **kwargs: object) -> None:
        pass

    def yes(*args: object, **kwargs: object) -> bool:
        return True

    here = {
        "device_count": cuda.device_count,
        "is_available": cuda.is_available,
        "is_initialized": yes,
        "is_bf16_supported": yes,
        "can_device_access_peer": cuda.can_device_access_peer,
        "init": nothing,
        "_lazy_init": nothing,
        "current_device": cuda.current_device,
        "set_device": cuda.set_device,
        "_exchange_device": cuda.exchange_device,
        "_maybe_exchange_device": cuda.exchange_device,
        "get_device_properties": cuda.get_device_properties,
        "synchronize": cuda.synchronize,
        "ipc_collect": nothing,
        "current_stream": cuda.current_stream,
        "default_stream": cuda.current_stream,
        "set_stream": nothing,
        "stream": cuda.stream,
        "Stream": Stream,
        "Event": Event,
        "is_current_stream_capturing": lambda: False,
    }
    memory = {
        "memory_stats_as_nested_dict": cuda.memory_statistics,
        "reset_peak_memory_stats": cuda.reset_peak_memory_stats,
        "reset_max_memory_allocated": cuda.reset_peak_memory_stats,
        "reset_accumulated_memory_stats": nothing,
        "mem_get_info": cuda.mem_get_info,
        "empty_cache": nothing,
        "set_per_process_memory_fraction": nothing,
    }
    random = {
        "manual_seed": cuda.manual_seed,
        "manual_seed_all": cuda.manual_seed,
        "seed": cuda.seed,
        "seed_all": cuda.seed,
        "initial_seed": cuda.initial_seed,
        "get_rng_state": cuda.get_rng_state,
        "set_rng_state": cuda.set_rng_state,
        "get_rng_state_all": cuda.get_rng_state_all,
        "set_rng_state_all": cuda.set_rng_state_all,
    }
    for name, value in (here | memory | random).items():
        yield torch.cuda, name, value
    for name, value in memory.items():
        yield torch.cuda.memory, name, value
    for name, value in random.items():
        yield torch.cuda.random, name, value
    yield torch.backends.cudnn, "is_acceptable", lambda tensor: False
    yield from _accelerator_patches(session, cuda)
    yield from _autocast_patches()
    yield torch, "Generator", _generator_kind(session)


def _accelerator_patches(session: Session, cuda: Cuda) -> Iterator[tuple[Any, str, Any]]:
    accelerator = getattr(torch, "accelerator", None)
    if accelerator is None:
        return

    def current_accelerator(check_available: bool = False) -> torch.device | None:
        return torch.device("cuda") if cuda.is_available() else None

    yield accelerator, "is_available", cuda.is_available
    yield accelerator, "device_count", cuda.device_count
    yield accelerator, "current_accelerator", current_accelerator
    for name in ("current_device_index", "current_device_idx"):
        yield accelerator, name, cuda.current_device
    for name in ("set_device_index", "set_device_idx"):
        yield accelerator, name, cuda.set_device
    yield accelerator, "synchronize", cuda.synchronize
    yield accelerator, "current_stream", cuda.current_stream


def _autocast_patches() -> Iterator[tuple[Any, str, Any]]:
    """`autocast("cuda")` has to reach the CPU's tensors, which is where the numbers are."""
    enable, choose = torch.set_autocast_enabled, torch.set_autocast_dtype

    def set_autocast_enabled(device_type: Any, enabled: Any = None) -> None:
        if enabled is None:
            device_type, enabled = "cuda", device_type
        enable(device_type, enabled)
        if device_type == "cuda":
            enable("cpu", enabled)

    def set_autocast_dtype(device_type: str, dtype: torch.dtype) -> None:
        choose(device_type, dtype)
        if device_type == "cuda":
            choose("cpu", dtype)

    yield torch, "set_autocast_enabled", set_autocast_enabled
    yield torch, "set_autocast_dtype", set_autocast_dtype


def _generator_kind(session: Session) -> type[torch.Generator]:
    """`torch.Generator(device="cuda:0")`: a generator of the CPU that says it is there."""

    original = torch.Generator

    class AnyGenerator(type(original)):  # type: ignore[misc]
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, original)

    class Generator(torch._C.Generator, metaclass=AnyGenerator):
        _virtual_device: torch.device

        def __new__(cls, device: Any = "cpu") -> Generator:
            target = session.resolve(device)
            made: Generator = super().__new__(cls)
            made._virtual_device = session.cpu.device if target is None else target.device
            return made

        @property
        def device(self) -> torch.device:  # type: ignore[override]
            return self._virtual_device

    return Generator
