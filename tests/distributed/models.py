"""Small models in pipelines, stepped next to the whole model on the same micro-batches."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

from partitioner.capture import Captured, capture
from partitioner.distributed import PipelineLayout, first_micro_batch, micro_calls
from partitioner.graph import stage_units, training_loss
from tests.emit.side_by_side import leaves
from tests.zoo import ZOO

MICRO_BATCHES = 4
STEPS = 3


def model_of(name: str) -> nn.Module:
    """A zoo model without dropout, of which a whole model and its stages draw differently."""
    model = ZOO[name].build()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    return model


def batch_of(name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call on a whole batch."""
    batch = 2 * MICRO_BATCHES
    return ZOO[name].args(batch), ZOO[name].kwargs(batch)


@functools.cache
def recording(name: str) -> Captured:
    """The recording of one micro-batch."""
    args, kwargs = first_micro_batch(*batch_of(name), MICRO_BATCHES)
    return capture(model_of(name), args, kwargs, training=True)


def layout_of(
    name: str, schedule: str, ranks: int, stages_per_rank: int = 1
) -> PipelineLayout | None:
    """Equal numbers of units for each stage; `None` where a model has too few."""
    captured = recording(name)
    units = stage_units(captured)
    stages = ranks * stages_per_rank
    if len(units) < stages:
        return None
    stage_of = {node: i * stages // len(units) for i, unit in enumerate(units) for node in unit}
    return PipelineLayout.of(captured, stage_of, schedule, MICRO_BATCHES, stages_per_rank)


def loss_of(output: Any, target: Any = None) -> Tensor:
    """The model's own loss, or the mean square of all outputs."""
    return training_loss(leaves(output))


@functools.cache
def reference(name: str) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of some steps of the whole model, and its parameters and buffers after them."""
    model = copy.deepcopy(model_of(name))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        total = 0.0
        for args, kwargs in micro_calls(*batch_of(name), MICRO_BATCHES):
            loss = loss_of(model(*args, **kwargs)) / MICRO_BATCHES
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        losses.append(total)
    return losses, {name: value.detach() for name, value in model.state_dict().items()}


def stepped(name: str, pipeline: Any) -> list[float]:
    """Losses of some steps of a pipeline; empty on ranks that have none."""
    parameters = [*pipeline.parameters(), nn.Parameter(torch.zeros(()))]  # a rank may have none
    optimizer = torch.optim.SGD(parameters, lr=1e-2)
    args, kwargs = batch_of(name)
    found = []
    for _ in range(STEPS):
        pipeline.zero_grad()
        losses: list[Tensor] = []
        pipeline.step(*args, losses=losses, **kwargs)
        optimizer.step()
        if losses:
            found.append(sum(float(loss.detach()) for loss in losses) / MICRO_BATCHES)
    return found


def assert_equal(
    expected: tuple[list[float], dict[str, Tensor]],
    losses: list[float],
    state: dict[str, Tensor],
) -> None:
    """Losses and all tensors are equal, up to rounding."""
    if losses:
        torch.testing.assert_close(losses, expected[0], rtol=1e-5, atol=1e-6)
    for name, value in state.items():
        torch.testing.assert_close(
            value.detach().cpu(), expected[1][name], rtol=1e-4, atol=1e-5, msg=name
        )
