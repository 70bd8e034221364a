"""The bytes on one virtual device: what is live, the most that ever was, and the limit."""

from __future__ import annotations

from collections.abc import Iterable

import torch

GRANULARITY_NBYTES = 512
"""CUDA's caching allocator hands out memory in multiples of this."""

UNLIMITED_NBYTES = 2**40
"""The memory of a device of which none is declared: more than any real one has."""


def rounded(nbytes: int) -> int:
    """`nbytes` rounded up to what the allocator hands out."""
    return -(-nbytes // GRANULARITY_NBYTES) * GRANULARITY_NBYTES


class VirtualGpu:
    """One device's account.

    Attributes:
        name: such as `"cuda:0"`.
        device: the same as a `torch.device`.
        kind: the declared kind of device, if any.
        limit_nbytes: what it can hold.
        allocated_nbytes: what its live storages take, each rounded up to 512 bytes.
        peak_nbytes: the most that `allocated_nbytes` has been since the start or `reset_peak`.
        limited: whether passing the limit raises.
        counted: whether storages on it are followed; false for a CPU that is not in the cluster.
    """

    __slots__ = (
        "_label",
        "allocated_nbytes",
        "counted",
        "device",
        "kind",
        "limit_nbytes",
        "limited",
        "name",
        "peak_nbytes",
    )

    def __init__(
        self,
        name: str,
        limit_nbytes: int,
        label: str,
        *,
        kind: str | None = None,
        limited: bool = True,
        counted: bool = True,
    ) -> None:
        self.name = name
        self.device = torch.device(name)
        self.kind = kind
        self.limit_nbytes = limit_nbytes
        self.allocated_nbytes = 0
        self.peak_nbytes = 0
        self.limited = limited
        self.counted = counted
        self._label = label

    def __repr__(self) -> str:
        return (
            f"VirtualGpu({self.name!r}, allocated_nbytes={self.allocated_nbytes}, "
            f"peak_nbytes={self.peak_nbytes}, limit_nbytes={self.limit_nbytes})"
        )

    def allocate(self, nbytes: int) -> None:
        """Count `nbytes`, already rounded.

        Raises:
            torch.OutOfMemoryError: the limit would be passed; nothing is counted then.
        """
        allocated = self.allocated_nbytes + nbytes
        if allocated > self.limit_nbytes and self.limited:
            raise torch.OutOfMemoryError(self._out_of_memory(nbytes))
        self.allocated_nbytes = allocated
        if allocated > self.peak_nbytes:
            self.peak_nbytes = allocated

    def reset_peak(self) -> None:
        """Start measuring the peak anew, from what is live now."""
        self.peak_nbytes = self.allocated_nbytes

    def live_nbytes_of(self, tensors: Iterable[torch.Tensor | None]) -> int:
        """What the given tensors' storages take on this device, in rounded bytes.

        A storage that several tensors share counts once; tensors elsewhere count nothing. So the
        allocated bytes can be told apart: those of the parameters, the gradients, and so on.
        """
        blocks: dict[int, Block] = {}
        for tensor in tensors:
            for storage in () if tensor is None else storages(tensor):
                block = getattr(storage, self._label, None)
                if block is not None and block.gpu is self:
                    blocks[id(block)] = block
        return sum(block.nbytes for block in blocks.values())

    def _out_of_memory(self, nbytes: int) -> str:
        free = self.limit_nbytes - self.allocated_nbytes
        if self.device.type == "cpu":
            return (
                f"DefaultCPUAllocator: can't allocate memory: you tried to allocate {nbytes} "
                f"bytes. Error code 12 (Cannot allocate memory): {free} of {self.limit_nbytes} "
                "bytes are free"
            )
        return (
            f"CUDA out of memory. Tried to allocate {_size(nbytes)}. GPU {self.device.index} has a "
            f"total capacity of {_size(self.limit_nbytes)} of which {_size(free)} is free. Of the "
            f"allocated memory {_size(self.allocated_nbytes)} is allocated by PyTorch, and 0 bytes "
            "is reserved by PyTorch but unallocated."
        )


class Block:
    """A label: the device of one storage and its rounded bytes. It dies with the storage."""

    __slots__ = ("gpu", "nbytes")

    def __init__(self, gpu: VirtualGpu, nbytes: int) -> None:
        self.nbytes = 0
        self.gpu = gpu
        gpu.allocate(nbytes)
        self.nbytes = nbytes

    def __del__(self) -> None:
        self.gpu.allocated_nbytes -= self.nbytes

    def relocate(self, gpu: VirtualGpu) -> None:
        """Count the bytes on another device from now on."""
        gpu.allocate(self.nbytes)
        self.gpu.allocated_nbytes -= self.nbytes
        self.gpu = gpu

    def resize(self, nbytes: int) -> None:
        """Count another number of bytes, already rounded, from now on."""
        self.gpu.allocate(nbytes - self.nbytes)
        self.nbytes = nbytes


def storages(tensor: torch.Tensor) -> tuple[torch.UntypedStorage, ...]:
    """The storages behind a tensor: one, or two and more behind a sparse one."""
    try:
        return (tensor.untyped_storage(),)
    except (NotImplementedError, RuntimeError):
        if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            return storages(torch._C._functorch.get_unwrapped(tensor))
        parts = _parts(tensor)
        return tuple(storage for part in parts for storage in storages(part))


def _parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    if tensor.layout is torch.sparse_coo:
        return tensor._values(), tensor._indices()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.values(), tensor.crow_indices(), tensor.col_indices()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.values(), tensor.ccol_indices(), tensor.row_indices()
    return ()


def _size(nbytes: int) -> str:
    """As CUDA's message writes sizes."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if nbytes >= unit:
            return f"{nbytes / unit:.2f} {name}"
    return f"{nbytes} bytes"
