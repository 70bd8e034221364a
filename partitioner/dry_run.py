"""The dry run: the placed module, run for two steps on fake tensors that know their device.

It costs no memory and gives the very peaks of the real run: what a plan promises is this figure.

The operators that run are the CPU's, and so are the tensors that they save. Which kernel CUDA takes
is known only at run time, so that CUDA's own are not modelled. It differs in these:

- Dropout. The CPU saves a mask of the input's type, CUDA a byte for each element: less.
- Attention. The CPU's kernel saves its inputs, its result and the log-sum-exp, as CUDA's flash and
  memory-efficient ones do; those save the random state as well (16 bytes) and may pad. With dropout
  the CPU takes plain products and keeps every weight, which CUDA's fused kernels do not: less.
- Workspaces. cuBLAS keeps one for each handle and stream, cuDNN's live during one call. PyTorch
  counts them among its own; their size follows from version, GPU and algorithm, and none is
  promised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from partitioner.capture import DATA_DEPENDENT, Answering, Captured, fake_clone, in_mode, quiet
from partitioner.emit import place
from partitioner.graph import training_loss
from partitioner.spec import Cluster
from partitioner.virtual import VirtualGpus, virtual_gpus

WAYS = ((False, True), (True, False), (False, False), (True, True))
"""Which stand-ins a model that decides by its data is told in the first step, and in all others;
the last two ways only where neither of the first leads to the end."""


@dataclass(frozen=True, slots=True)
class MeasuredMemory:
    """Bytes on one device, as the allocator rounds them.

    Attributes:
        parameters: with buffers and constants.
        gradients: when all of them are there.
        optimizer: its state after a step.
        activations: what the forward leaves alive for the backward.
        peak: the most at any moment of two steps.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    peak: int


def dry_run(
    model: nn.Module,
    captured: Captured,
    placement: Mapping[str, str],
    cluster: Cluster,
    *,
    make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None,
) -> dict[str, MeasuredMemory] | None:
    """Measure what each device of `cluster` holds, by device name.

    In training, two steps of forward, backward and optimizer under the loss of `training_loss`;
    in inference, one forward without gradients. Fake tensors have no data: a model that decides by
    its data is told stand-ins, others in the second step and in a third, which meets all state
    of the optimizer, and the other way round. Each figure is the largest that is found; `None`
    where no way leads to the end.
    """
    found: list[dict[str, MeasuredMemory]] = []
    for others in WAYS:
        if found and others[0] == others[1]:
            break
        with quiet(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
            answering = Answering()

            def begins(step: int, answering: Answering = answering, others: Any = others) -> bool:
                answering.go_on(other=others[step > 0])
                return step < 2 or answering.given > 0

            with suppress(*DATA_DEPENDENT), answering:
                run = _rehearsed(mode, model, captured, placement, cluster, make_optimizer, begins)
                found.append(run)
        if not answering.given:
            break
    return {name: largest([run[name] for run in found]) for name in found[0]} if found else None


def largest(found: Sequence[MeasuredMemory]) -> MeasuredMemory:
    """Each figure at its largest."""
    return MeasuredMemory(*map(max, zip(*map(astuple, found), strict=True)))


def _rehearsed(
    mode: FakeTensorMode,
    model: nn.Module,
    captured: Captured,
    placement: Mapping[str, str],
    cluster: Cluster,
    make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None,
    begins: Callable[[int], bool],
) -> dict[str, MeasuredMemory]:
    fake = in_mode(fake_clone(model, mode), captured.training)
    args, kwargs = pytree.tree_map_only(
        torch.Tensor, lambda tensor: torch.empty_like(tensor, device="cpu"), captured.example
    )
    with virtual_gpus(cluster, limits=False) as gpus:
        placed = place(fake, captured, placement, detours=cluster.detours)
        del fake
        if captured.training:
            return _training(placed, args, kwargs, gpus, cluster, make_optimizer, begins)
        begins(0)
        return _inference(placed, args, kwargs, gpus, cluster)


def _training(
    placed: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    gpus: VirtualGpus,
    cluster: Cluster,
    make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None,
    begins: Callable[[int], bool],
) -> dict[str, MeasuredMemory]:
    names = [device.name for device in cluster.devices]
    trainable = [parameter for parameter in placed.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(trainable) if make_optimizer and trainable else None
    before = {name: gpus[name].allocated_nbytes for name in names}
    activations: dict[str, int] = {}
    for _ in takewhile(begins, range(3)):
        placed.zero_grad(set_to_none=True)
        held = {name: gpus[name].allocated_nbytes for name in names}
        loss = training_loss(placed(*args, **kwargs))
        activations = {name: gpus[name].allocated_nbytes - held[name] for name in names}
        loss.backward()  # type: ignore[no-untyped-call]
        del loss
        if optimizer is not None:
            optimizer.step()
    gradients = [p.grad for p in trainable if p.grad is not None]
    state = state_tensors(optimizer)
    return {
        name: MeasuredMemory(
            parameters=before[name],
            gradients=gpus[name].live_nbytes_of(gradients),
            optimizer=gpus[name].live_nbytes_of(state),
            activations=activations[name],
            peak=gpus[name].peak_nbytes,
        )
        for name in names
    }


def state_tensors(optimizer: torch.optim.Optimizer | None) -> list[torch.Tensor]:
    """What an optimizer keeps of its steps."""
    entries = [] if optimizer is None else list(optimizer.state.values())
    return [leaf for leaf in pytree.tree_leaves(entries) if isinstance(leaf, torch.Tensor)]


def _inference(
    placed: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    gpus: VirtualGpus,
    cluster: Cluster,
) -> dict[str, MeasuredMemory]:
    before = {device.name: gpus[device.name].allocated_nbytes for device in cluster.devices}
    with torch.no_grad():
        placed(*args, **kwargs)
    return {
        name: MeasuredMemory(
            parameters=held,
            gradients=0,
            optimizer=0,
            activations=gpus[name].peak_nbytes - held,
            peak=gpus[name].peak_nbytes,
        )
        for name, held in before.items()
    }
