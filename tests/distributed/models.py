"""Small models in pipelines, stepped next to the whole model on the same micro-batches."""

from __future__ import annotations

import copy
import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from partitioner.capture import Captured, capture
from partitioner.distributed import PipelineLayout, first_micro_batch, micro_calls
from partitioner.graph import stage_units, training_loss
from tests.emit.side_by_side import leaves
from tests.zoo import SEED, ZOO, Case, seeded

MICRO_BATCHES = 4
STEPS = 3


def _t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, pad_token_id=0,
        eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    return T5ForConditionalGeneration(config).train()


def _pairs(batch: int = 2) -> dict[str, Any]:
    ids = torch.randint(2, 64, (2, batch, 6))
    return {"input_ids": ids[0], "labels": ids[1], "use_cache": False}


CASES = {
    **ZOO,
    "hf_t5_labels": Case(
        "hf_t5_labels", seeded(_t5, SEED), lambda batch=2: (), seeded(_pairs, SEED + 2)
    ),
}


def model_of(name: str) -> nn.Module:
    """A model without dropout, of which a whole model and its stages draw differently."""
    model = CASES[name].build()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for attribute, value in vars(module).items():
            if "dropout" in attribute and isinstance(value, float):
                setattr(module, attribute, 0.0)
    return model


def batch_of(name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call on a whole batch."""
    batch = 2 * MICRO_BATCHES
    return CASES[name].args(batch), CASES[name].kwargs(batch)


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


class Trained(NamedTuple):
    """What some steps of a model leave: losses, parameters and buffers, the last gradients."""

    losses: list[float]
    state: dict[str, Tensor]
    gradients: dict[str, Tensor]


@functools.cache
def reference(name: str) -> Trained:
    """Some steps of the whole model."""
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
    return trained(losses, model)


def trained(losses: list[float], model: Any) -> Trained:
    gradients = {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    return Trained(losses, state, gradients)


def stepped(name: str, pipeline: Any) -> Trained:
    """Some steps of a pipeline; no losses on ranks that have none."""
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
    return trained(found, pipeline)


def assert_equal(expected: Trained, found: Trained) -> None:
    """Losses, gradients and all tensors are equal, up to rounding."""
    if found.losses:
        torch.testing.assert_close(found.losses, expected.losses, rtol=1e-5, atol=1e-6)
    for name, value in found.state.items():
        torch.testing.assert_close(value, expected.state[name], rtol=1e-4, atol=1e-5, msg=name)
    for name, value in found.gradients.items():
        torch.testing.assert_close(value, expected.gradients[name], rtol=1e-4, atol=1e-5, msg=name)


def difference(expected: Trained, found: Trained) -> float:
    """The largest one between parameters and buffers, gradients or losses."""
    pairs = [
        *((value, expected.state[name]) for name, value in found.state.items()),
        *((value, expected.gradients[name]) for name, value in found.gradients.items()),
        *(
            (torch.tensor(a), torch.tensor(b))
            for a, b in zip(found.losses, expected.losses, strict=False)
        ),
    ]
    return max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)
