"""`Options`: what a person asks of one planning, checked once and passed on whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from cost_models import CostModel, RooflineCostModel
from partitioner.errors import SpecError
from partitioner.graph import LOSSES, Loss, loss_of, optimizer_factory
from partitioner.loading import load_object
from partitioner.placement import PlanDocument
from partitioner.schedule import check_schedule
from partitioner.spec import MODES, OBJECTIVES, Constraint, check_name

Optimizer = str | type[torch.optim.Optimizer] | Callable[..., torch.optim.Optimizer] | None
LossFunction = str | type[nn.Module] | Callable[..., torch.Tensor] | Loss | None
Targets = torch.Tensor | Sequence[torch.Tensor] | None
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The keywords of `partitioner.plan` that are neither the model, the devices nor the inputs.

    Attributes:
        mode: `"train"` or `"inference"`.
        objective: `"latency"`, `"throughput"` or `"memory"`.
        optimizer: a name, a class or a callable `params -> optimizer`; counts in training.
        loss: a name, a class or a callable `(output, *targets) -> scalar`; counts in training.
        targets: examples of what the loss compares with, where they do not follow from the output.
        constraints: of the user.
        cost_model: prices operators.
        micro_batches: into which a batch is divided; more than 1 asks for a pipeline.
        schedule: of the pipeline, one of `partitioner.schedule.SCHEDULES`.
        stages_per_rank: of the pipeline.
        cache_tokens: how many tokens the key-value cache of `generate` holds at most, the prompt's
            included; `None` plans for the forward alone.
        replicas: equal pipelines that train together, each on a batch of its own; `"auto"` takes
            the number with which a batch takes the least time.
        time_limit: seconds for the solver, or `None`.
        seed: of the solver's randomised parts.
        progress: called with a line of text at each step.
        start: device name by node name, from which the solver searches as well.

    Raises:
        SpecError: an option makes no sense.
    """

    mode: str
    objective: str = "latency"
    optimizer: Optimizer = None
    loss: LossFunction = None
    targets: Targets = None
    constraints: tuple[Constraint, ...] = ()
    cost_model: CostModel = field(default_factory=RooflineCostModel)
    micro_batches: int = 1
    schedule: str = "1f1b"
    stages_per_rank: int = 1
    cache_tokens: int | None = None
    replicas: int | Literal["auto"] = 1
    time_limit: float | None = None
    seed: int = 0
    progress: Progress | None = None
    start: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        check_name("objective", self.objective, OBJECTIVES)
        check_name("mode", self.mode, MODES)
        check_schedule(self.schedule, 1, self.micro_batches, self.stages_per_rank)
        if self.is_pipeline and self.objective != "throughput":
            raise SpecError(
                f"micro_batches={self.micro_batches} make a pipeline, which is planned for "
                f"throughput; take objective='throughput' in place of {self.objective!r}"
            )
        if self.replicas != "auto" and (type(self.replicas) is not int or self.replicas < 1):
            raise SpecError(f"replicas={self.replicas!r}: give a number of at least 1, or 'auto'")
        if self.replicas != 1 and not (self.is_pipeline and self.training):
            raise SpecError(
                f"replicas={self.replicas}: several pipelines train together; take "
                "mode='train' and micro_batches of more than 1"
            )
        if self.training:
            optimizer_factory(self.optimizer)
            _ = self.loss_function
        if self.cache_tokens is not None:
            self._check_cache_tokens(self.cache_tokens)

    def _check_cache_tokens(self, tokens: int) -> None:
        if tokens < 2:
            raise SpecError(
                f"cache_tokens={tokens}: a cache holds a prompt and an answer, 2 or more"
            )
        if self.training or self.is_pipeline:
            wrong = "mode='train'" if self.training else f"micro_batches={self.micro_batches}"
            raise SpecError(
                f"cache_tokens={tokens} is for `generate`, which {wrong} has not; plan with "
                "mode='inference' and one micro-batch"
            )

    @property
    def is_pipeline(self) -> bool:
        """Whether micro-batches flow through stages."""
        return self.micro_batches > 1

    @property
    def training(self) -> bool:
        """Whether a step has a backward."""
        return self.mode == "train"

    @property
    def make_optimizer(self) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None:
        """Makes the optimizer of given parameters; `None` where none takes part."""
        return optimizer_factory(self.optimizer) if self.training else None

    @property
    def loss_function(self) -> Loss:
        """What a training step minimises."""
        loss = self.loss
        if isinstance(loss, str) and ":" in loss:
            return replace(loss_of(load_object(loss), self.targets), name=loss)
        return loss_of(loss, self.targets)

    def with_targets(self, changed: Callable[[Any], Any]) -> Options:
        """The same with the loss's targets, given as arguments of a call, changed as a call is."""
        loss = self.loss_function
        if loss.targets is None:
            return self
        targets, _ = changed((loss.targets, {}))
        return replace(self, loss=replace(loss, targets=targets), targets=None)

    @property
    def optimizer_name(self) -> str | None:
        """The optimizer in a word; `None` where none takes part."""
        optimizer = self.optimizer if self.training else None
        if optimizer is None or isinstance(optimizer, str):
            return optimizer
        return getattr(optimizer, "__qualname__", type(optimizer).__qualname__)

    def say(self, line: str) -> None:
        """Report a step."""
        if self.progress is not None:
            self.progress(line)


def loss_of_plan(
    document: PlanDocument, loss: LossFunction = None, targets: Targets = None
) -> Loss:
    """The loss that a plan was made with.

    Args:
        document: the plan, which holds a name and sizes alone.
        loss: in place of the plan's; needed where that is none of PyTorch's.
        targets: in place of those that the plan tells the sizes of.

    Raises:
        SpecError: the plan's loss is not known by its name.
    """
    record = document.loss
    if targets is None and record is not None and record.targets is not None:
        targets = [
            torch.empty(t.shape, dtype=getattr(torch, t.dtype), device="meta")
            for t in record.targets
        ]
    if loss is None and record is not None:
        if record.name not in LOSSES:
            raise SpecError(
                f"the plan was made with the loss '{record.name}', which is not PyTorch's: give it "
                "with loss=, or on the command line with --loss MODULE:NAME"
            )
        loss = record.name
    return Options(mode="train", loss=loss, targets=targets).loss_function


def mode_of(model: nn.Module, mode: str | None) -> str:
    """The mode that was asked for, else that of the model.

    Raises:
        SpecError: it is no model.
    """
    if not isinstance(model, nn.Module):
        raise SpecError(f"the model must be an nn.Module, not {type(model).__name__}")
    if mode is not None:
        return mode
    return "train" if model.training else "inference"
