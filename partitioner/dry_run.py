"""The dry run: the placed module, run for two steps on fake tensors that know their device.

It costs no memory and gives the very peaks of the real run: what a plan promises is this figure.

The operators that run are the CPU's, and so are the tensors that they save, but for dropout (see
`partitioner.virtual.kernels`): on a GPU it saves a mask of a byte for each element, as CUDA's does.
Which other kernel CUDA takes is known only at run time; those differ in these:

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
from dataclasses import dataclass, fields, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from partitioner.capture import (
    DATA_DEPENDENT,
    Answering,
    Captured,
    Fakes,
    clone,
    decided_by_positions,
    fake_clone,
    has_data,
    in_mode,
    quiet,
)
from partitioner.emit import place
from partitioner.graph import OUTPUT_LOSS, Loss, output_tensors
from partitioner.placement import Rehearsal
from partitioner.spec import Cluster
from partitioner.virtual import VirtualGpus, virtual_gpus

Call = tuple[tuple[Any, ...], dict[str, Any]]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None

STEPS = 2
"""Of training: the second one meets the state of the optimizer."""
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
        rehearsal: what the run was on: `"sizes"` alone, the example's `"values"`, or both
            `"stand-ins"` for each value that decides.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    peak: int
    rehearsal: Rehearsal = "sizes"


Measured = dict[str, MeasuredMemory]


def dry_run(
    model: nn.Module,
    captured: Captured,
    placement: Mapping[str, str],
    cluster: Cluster,
    *,
    make_optimizer: MakeOptimizer,
    loss: Loss = OUTPUT_LOSS,
    call: Call | None = None,
) -> dict[str, MeasuredMemory] | None:
    """Measure what each device of `cluster` holds, by device name.

    In training, two steps of the loop that is usually written; what its variables hold, lives until
    the next step takes its place. In inference, one forward without gradients. ::

        output = placed(inputs)
        loss = loss_fn(output, targets.to(output.device))
        loss.backward()
        optimizer.step()

    Fake tensors have no data. A model that decides by its data is told stand-ins, others in the
    second step and in a third, which meets all state of the optimizer, and the other way round;
    each figure is the largest that is found. Where no way leads to the end, as where data decides
    sizes, the model runs on `call` and on its own parameters instead, copied, if both have data and
    are not large (see `has_data`). `None` where they have not.
    """

    def rehearsed(copy: nn.Module, example: Call, loss: Loss, steps: Iterable[int]) -> Measured:
        with virtual_gpus(cluster, limits=False) as gpus:
            placed = place(
                in_mode(copy, captured.training), captured, placement, detours=cluster.detours
            )
            del copy
            if captured.training:
                return _training(placed, *example, gpus, cluster, make_optimizer, loss, steps)
            return _inference(placed, *example, gpus, cluster, steps)

    def on_sizes(steps: Iterable[int]) -> Measured:
        with Fakes() as mode, decided_by_positions():
            sizes = pytree.tree_map_only(Tensor, _without_data, captured.example)
            return rehearsed(fake_clone(model, mode), sizes, loss.without_data(), steps)

    with quiet():
        with suppress(*DATA_DEPENDENT):
            return on_sizes(range(STEPS))
        hungriest = _on_stand_ins(on_sizes)
        if hungriest is not None or call is None or not has_data(model, call):
            return hungriest
        torch.manual_seed(0)
        values = pytree.tree_map_only(Tensor, _copied, call)
        copy = clone(model, lambda tensor, _: tensor)
        found = rehearsed(copy, values, loss.with_data(), range(STEPS))
        return {name: replace(use, rehearsal="values") for name, use in found.items()}


def _on_stand_ins(on_sizes: Callable[[Iterable[int]], Measured]) -> Measured | None:
    """The largest figures of a model that is told one and the other of what decides, if it ends."""
    found: list[Measured] = []
    for first, others in WAYS:
        if found and first == others:
            break
        with suppress(*DATA_DEPENDENT), Answering() as answering:

            def begins(
                step: int,
                answering: Answering = answering,
                first: bool = first,
                others: bool = others,
            ) -> bool:
                answering.go_on(other=others if step else first)
                return True

            found.append(on_sizes(takewhile(begins, range(STEPS + 1))))
    if not found:
        return None
    return {
        name: replace(largest([run[name] for run in found]), rehearsal="stand-ins")
        for name in found[0]
    }


def largest(found: Sequence[MeasuredMemory]) -> MeasuredMemory:
    """Each figure at its largest."""
    figures = [field.name for field in fields(MeasuredMemory) if field.name != "rehearsal"]
    return MeasuredMemory(**{each: max(getattr(use, each) for use in found) for each in figures})


def _without_data(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="cpu")


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).requires_grad_(tensor.requires_grad)


def _training(
    placed: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    gpus: VirtualGpus,
    cluster: Cluster,
    make_optimizer: MakeOptimizer,
    loss_fn: Loss,
    steps: Iterable[int],
) -> Measured:
    names = [device.name for device in cluster.devices]
    trainable = [parameter for parameter in placed.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(trainable) if make_optimizer and trainable else None
    before = {name: gpus[name].allocated_nbytes for name in names}
    activations: dict[str, int] = {}
    output = loss = None
    for _ in steps:
        placed.zero_grad(set_to_none=True)
        variables = [*output_tensors(output), *output_tensors(loss)]
        held = {n: gpus[n].allocated_nbytes - gpus[n].live_nbytes_of(variables) for n in names}
        del variables
        output = placed(*args, **kwargs)
        loss = loss_fn(output)
        activations = {name: gpus[name].allocated_nbytes - held[name] for name in names}
        loss.backward()  # type: ignore[no-untyped-call]
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


def state_tensors(optimizer: torch.optim.Optimizer | None) -> list[Tensor]:
    """What an optimizer keeps of its steps."""
    entries = [] if optimizer is None else list(optimizer.state.values())
    return [leaf for leaf in pytree.tree_leaves(entries) if isinstance(leaf, Tensor)]


def _inference(
    placed: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    gpus: VirtualGpus,
    cluster: Cluster,
    steps: Iterable[int],
) -> Measured:
    """One forward: the first of the steps."""
    before = {device.name: gpus[device.name].allocated_nbytes for device in cluster.devices}
    next(iter(steps))
    with torch.no_grad():
        placed(*args, **kwargs)
    return without_gradients(gpus, before)


def without_gradients(gpus: VirtualGpus, before: Mapping[str, int]) -> Measured:
    """What devices took that only ran forward, of which `before` was there already."""
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
