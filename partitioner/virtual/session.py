"""What the two modes and the patches share while virtual GPUs are there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._device
from torch import Tensor
from torch.autograd import forward_ad

from partitioner.spec import Cluster
from partitioner.virtual.ledger import Block, VirtualGpu, rounded, storages

Transfer = tuple[str, str, int]
"""Source, destination and bytes of one move between two devices."""

CPU = torch.device("cpu")
_numbers = itertools.count()


class Session:
    """The labels, devices and transfers of one `with virtual_gpus(...)`.

    A storage without a label is on the CPU. A storage that PyTorch's own C++ made out of nothing,
    such as a zero gradient, is `undecided`: it belongs to the first device that uses it.

    Attributes:
        label: the attribute of a storage that holds its `Block`; differs from session to session.
        gpus: the accounts of the declared devices, by name.
        cpu: the CPU's account, whether declared or not.
        undecided: the account of storages that no device has used yet.
        current: the index of the current CUDA device.
        requested: where factories inside the running call put their results.
        cluster: as declared.
        transfers: every move so far.
        active: false once the `with` is over, and while it is suspended.
    """

    def __init__(self, cluster: Cluster, *, limits: bool = True) -> None:
        self.label = f"_virtual_gpu_block_{next(_numbers)}"
        self.gpus = {
            device.name: VirtualGpu(
                device.name,
                int(device.memory or 0),
                self.label,
                kind=device.kind,
                limited=limits,
            )
            for device in cluster.devices
        }
        undeclared = VirtualGpu("cpu", 0, self.label, limited=False, counted=False)
        self.cpu = self.gpus.get("cpu", undeclared)
        self.undecided = VirtualGpu("cpu", 0, self.label, limited=False)
        indices = [gpu.device.index for gpu in self.gpus.values() if gpu.device.type == "cuda"]
        self.device_count = max(indices, default=-1) + 1
        self.current = min(indices, default=0)
        self.requested: VirtualGpu | None = None
        self.cluster = cluster
        self.transfers: list[Transfer] = []
        self.active = True

    def block(self, tensor: Tensor) -> Block | None:
        """The label of a tensor's storage."""
        try:
            block: Block | None = getattr(tensor.untyped_storage(), self.label, None)
        except (NotImplementedError, RuntimeError):
            found = (getattr(storage, self.label, None) for storage in storages(tensor))
            block = next((block for block in found if block is not None), None)
        return block

    def home(self, tensor: Tensor) -> VirtualGpu:
        """The device of a tensor; an undecided one is answered as the CPU."""
        block = self.block(tensor)
        return self.cpu if block is None or block.gpu is self.undecided else block.gpu

    def storage_home(self, storage: torch.UntypedStorage) -> VirtualGpu:
        """The device of a storage; an undecided one is answered as the CPU."""
        block: Block | None = getattr(storage, self.label, None)
        return self.cpu if block is None or block.gpu is self.undecided else block.gpu

    def device(self, tensor: Tensor) -> torch.device | None:
        """The labelled device of a tensor, or `None` where PyTorch's own answer is right."""
        block = self.block(tensor)
        return None if block is None else block.gpu.device

    def claim(self, storage: torch.UntypedStorage, gpu: VirtualGpu) -> None:
        """Label a new storage and count its bytes; one that has a label keeps it."""
        if gpu.counted and getattr(storage, self.label, None) is None:
            setattr(storage, self.label, Block(gpu, rounded(int(storage.nbytes()))))

    def recount(self, storage: torch.UntypedStorage) -> None:
        """Count a storage that may have been resized."""
        block: Block | None = getattr(storage, self.label, None)
        if block is not None:
            nbytes = rounded(int(storage.nbytes()))
            if nbytes != block.nbytes:
                block.resize(nbytes)

    def resolve(self, device: object) -> VirtualGpu | None:
        """The account that a device argument means, or `None` for devices that are not virtual.

        Raises:
            RuntimeError: there is no such virtual GPU, as CUDA says it.
        """
        if isinstance(device, str):
            found = self.gpus.get(device)
            if found is not None:
                return found
            device = torch.device(device)
        elif isinstance(device, int):
            device = torch.device("cuda", device)
        if not isinstance(device, torch.device) or device.type not in ("cpu", "cuda"):
            return None
        if device.type == "cpu":
            return self.cpu
        return self.gpu(self.current if device.index is None else device.index)

    def gpu(self, index: int) -> VirtualGpu:
        """The virtual GPU of that index.

        Raises:
            RuntimeError: there is none, as CUDA says it.
        """
        found = self.gpus.get(f"cuda:{index}")
        if found is None:
            error = getattr(torch, "AcceleratorError", RuntimeError)
            raise error(
                "CUDA error: invalid device ordinal\n"
                "GPU device may be out of range, do you have enough GPUs?\n"
                f"There is no virtual 'cuda:{index}'; there are {', '.join(self.gpus)}."
            )
        return found

    def default(self) -> VirtualGpu | None:
        """Where factories put their results when nothing else is said."""
        device = torch.utils._device.CURRENT_DEVICE
        return self.cpu if device is None else self.resolve(device)

    @contextmanager
    def requesting(self, gpu: VirtualGpu) -> Iterator[None]:
        """For the time of a call, factories put their results on `gpu`."""
        before, self.requested = self.requested, gpu
        try:
            yield
        finally:
            self.requested = before

    def close(self) -> None:
        """Translate and record nothing any more."""
        self.active = False

    def record(self, source: VirtualGpu, destination: VirtualGpu, nbytes: int) -> None:
        """Write down one move."""
        self.transfers.append((source.name, destination.name, nbytes))

    def arrives_changed(self, source: VirtualGpu, destination: VirtualGpu) -> bool:
        """Whether the link from one device to another was declared to be broken."""
        link = self.cluster.declared_link(source.name, destination.name)
        return link is not None and link.broken

    def move(
        self,
        tensor: Tensor,
        target: VirtualGpu,
        dtype: torch.dtype | None = None,
        memory_format: torch.memory_format | None = None,
    ) -> Tensor:
        """A copy of `tensor` on `target`; gradients come back to where `tensor` is."""
        backward = tensor.requires_grad and torch.is_grad_enabled()
        if backward or forward_ad._current_level >= 0:
            moved: Tensor = _Move.apply(tensor, self, target, dtype, memory_format)  # type: ignore[no-untyped-call]
            return moved
        return self.copy(tensor, target, dtype, memory_format)

    def copy(
        self,
        tensor: Tensor,
        target: VirtualGpu,
        dtype: torch.dtype | None = None,
        memory_format: torch.memory_format | None = None,
    ) -> Tensor:
        """As `move`, without gradients."""
        if not self.active:
            return tensor.to(dtype or tensor.dtype, copy=True)
        aten = torch.ops.aten
        options: dict[str, Any] = {"dtype": dtype, "device": CPU, "memory_format": memory_format}
        with self.requesting(target), torch._C.DisableTorchFunction():
            if tensor.layout is not torch.strided:
                source = self.home(tensor)
                sparse: Tensor = aten._to_copy.default(tensor, **options)
                self.record(source, target, nbytes_of(sparse))
                return sparse
            copied: Tensor = aten.empty_like.default(tensor, **options)
        with torch._C.DisableTorchFunction():
            aten.copy_.default(copied, tensor)
        return copied


def nbytes_of(tensor: Tensor) -> int:
    """The bytes that crossing a link costs: those of the elements."""
    if tensor.layout is torch.strided:
        return tensor.numel() * tensor.element_size()
    return sum(int(storage.nbytes()) for storage in storages(tensor))


class _Move(torch.autograd.Function):
    """A copy to another device whose gradient is a copy back."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        tensor: Tensor,
        session: Session,
        target: VirtualGpu,
        dtype: torch.dtype | None,
        memory_format: torch.memory_format | None,
    ) -> Tensor:
        return session.copy(tensor, target, dtype, memory_format)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        tensor, session, target, dtype, _ = inputs
        ctx.session, ctx.source, ctx.dtype = session, session.home(tensor), tensor.dtype
        ctx.target, ctx.target_dtype = target, dtype

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        moved = ctx.session.move(gradients[0], ctx.source, ctx.dtype)
        return moved, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return ctx.session.move(tangents[0], ctx.target, ctx.target_dtype)
