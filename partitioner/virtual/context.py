"""`virtual_gpus` and `suspended`: when the modes and patches are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from importlib import import_module
from typing import Any

import torch
import torch.utils._device
from torch import overrides
from torch.utils import _python_dispatch as dispatch

from partitioner.errors import SpecError
from partitioner.spec import Cluster, Device
from partitioner.virtual.dispatch import DispatchMode
from partitioner.virtual.functions import FunctionMode
from partitioner.virtual.ledger import UNLIMITED_NBYTES, VirtualGpu
from partitioner.virtual.patches import Patches, patches_for
from partitioner.virtual.session import Session, Transfer


class VirtualGpus:
    """The devices of one `with virtual_gpus(...)`: a mapping from names to `VirtualGpu`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def transfers(self) -> list[Transfer]:
        """Source, destination and bytes of every move so far, in order."""
        return self._session.transfers

    def __getitem__(self, device: str | int | torch.device) -> VirtualGpu:
        """The account of a device, by name, index or `torch.device`.

        Raises:
            KeyError: there is none.
        """
        name = f"cuda:{device}" if isinstance(device, int) else str(device)
        return self._session.gpus[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._session.gpus)

    def __len__(self) -> int:
        return len(self._session.gpus)

    def values(self) -> tuple[VirtualGpu, ...]:
        """The accounts, in the order of the devices."""
        return tuple(self._session.gpus.values())

    def reset_peak(self) -> None:
        """Start measuring every device's peak anew."""
        for gpu in self.values():
            gpu.reset_peak()

    def reset_transfers(self) -> None:
        """Forget the moves so far."""
        self._session.transfers.clear()


class _Active:
    """One session with its modes and patches."""

    def __init__(self, session: Session) -> None:
        import_module("torch._dynamo")  # it remembers torch.cuda as it is when imported
        self.function_mode = FunctionMode(session)
        self.dispatch_mode = DispatchMode(session, self.function_mode)
        self._patches: Patches = patches_for(session, self.function_mode)
        self.session = session

    def patch(self) -> None:
        """Put the patches in place; what `torch.compile` gives runs as it was written."""
        self._patches.apply()
        self._stance = torch.compiler.set_stance("force_eager")

    def unpatch(self) -> None:
        """Take both back."""
        self._stance.__exit__(None, None, None)
        self._patches.undo()


_active: _Active | None = None


@contextmanager
def virtual_gpus(
    devices: int | str | Cluster | Sequence[str | Device | torch.device],
    memory: str | int | Mapping[str, int | str] | None = None,
    *,
    limits: bool = True,
) -> Iterator[VirtualGpus]:
    """Run CUDA code on the CPU, with true numbers, CUDA's rules and counted bytes.

    Args:
        devices: how many (`cuda:0`, `cuda:1`...), or anything that `Cluster.of` understands.
        memory: of each device, such as `"16GiB"`, or by device name. Where neither this nor the
            device tells, there is 1 TiB.
        limits: whether passing a device's memory raises `torch.OutOfMemoryError`; without, bytes
            are counted only, however many.

    Yields:
        The devices' accounts and the transfers.

    Raises:
        SpecError: inside another `virtual_gpus` that is not suspended, or the devices make no
            sense.
    """
    global _active
    if _active is not None and _active.session.active:
        raise SpecError(
            "virtual_gpus inside virtual_gpus; leave the outer one first, or suspend it with "
            "partitioner.virtual.suspended()"
        )
    cluster = Cluster.of(devices, UNLIMITED_NBYTES if memory is None else memory)
    _check(cluster)
    session = Session(cluster, limits=limits)
    active = _Active(session)
    with ExitStack() as stack:
        stack.callback(_restore_default_device, _default_device())
        stack.callback(torch.set_autocast_dtype, "cpu", torch.get_autocast_dtype("cpu"))
        active.patch()
        stack.callback(active.unpatch)
        stack.enter_context(active.dispatch_mode)
        stack.enter_context(active.function_mode)
        stack.callback(_activate, _active)
        stack.callback(session.close)
        _active = active
        yield VirtualGpus(session)


@contextmanager
def suspended() -> Iterator[None]:
    """Inside `virtual_gpus`: plain PyTorch for a while, for tracing say; elsewhere nothing.

    Labels stay on their storages. Tensors that are made meanwhile are on the CPU.
    """
    active = _active
    if active is None or not active.session.active:
        yield
        return
    active.session.active = False
    enter_function_mode = _take_out(
        active.function_mode,
        overrides._get_current_function_mode_stack(),  # type: ignore[no-untyped-call]
        overrides._pop_mode,
        overrides._push_mode,
    )
    enter_dispatch_mode = _take_out(
        active.dispatch_mode,
        dispatch._get_current_dispatch_mode_stack(),
        dispatch._pop_mode,
        dispatch._push_mode,
    )
    active.unpatch()
    try:
        with _host_default():
            yield
    finally:
        active.patch()
        enter_dispatch_mode()
        enter_function_mode()
        active.session.active = True


def _check(cluster: Cluster) -> None:
    for device in cluster.devices:
        if torch.device(device.name).type not in ("cuda", "cpu"):
            raise SpecError(f"'{device.name}' cannot be virtual; only 'cuda:N' and 'cpu' can")


def _activate(active: _Active | None) -> None:
    global _active
    _active = active


def _take_out(
    mode: Any, stack: Sequence[object], pop: Callable[[], Any], push: Callable[[Any], object]
) -> Callable[[], None]:
    """Leave a mode that others may have been entered above; the result enters it again there."""
    if mode not in stack:
        return lambda: None
    count = len(stack) - stack.index(mode) - 1

    def below_the_others(action: Callable[[], object]) -> None:
        others = [pop() for _ in range(count)]
        action()
        for other in reversed(others):
            push(other)

    below_the_others(lambda: mode.__exit__(None, None, None))
    return lambda: below_the_others(mode.__enter__)


def _default_device() -> torch.device | None:
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    found: torch.device | None = None if context is None else context.device
    return found


def _restore_default_device(device: torch.device | None) -> None:
    if _default_device() != device:
        torch.set_default_device(device)


def _host_default() -> AbstractContextManager[Any]:
    """Factories without a device must not ask plain PyTorch for a virtual one."""
    default = torch.utils._device.CURRENT_DEVICE
    return nullcontext() if default is None or default.type != "cuda" else torch.device("cpu")
