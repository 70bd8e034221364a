"""`Options`: what a person asks of one planning, checked once and passed on whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

from cost_models import CostModel, RooflineCostModel
from partitioner.errors import SpecError
from partitioner.graph import optimizer_factory
from partitioner.schedule import check_schedule
from partitioner.spec import MODES, OBJECTIVES, Constraint, check_name

Optimizer = str | type[torch.optim.Optimizer] | Callable[..., torch.optim.Optimizer] | None
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The keywords of `partitioner.plan` that are neither the model, the devices nor the inputs.

    Attributes:
        mode: `"train"` or `"inference"`.
        objective: `"latency"`, `"throughput"` or `"memory"`.
        optimizer: a name, a class or a callable `params -> optimizer`; counts in training.
        constraints: of the user.
        cost_model: prices operators.
        micro_batches: into which a batch is divided; more than 1 asks for a pipeline.
        schedule: of the pipeline, one of `partitioner.schedule.SCHEDULES`.
        stages_per_rank: of the pipeline.
        cache_tokens: how many tokens the key-value cache of `generate` holds at most, the prompt's
            included; `None` plans for the forward alone.
        time_limit: seconds for the solver, or `None`.
        seed: of the solver's randomised parts.
        progress: called with a line of text at each step.

    Raises:
        SpecError: an option makes no sense.
    """

    mode: str
    objective: str = "latency"
    optimizer: Optimizer = None
    constraints: tuple[Constraint, ...] = ()
    cost_model: CostModel = field(default_factory=RooflineCostModel)
    micro_batches: int = 1
    schedule: str = "1f1b"
    stages_per_rank: int = 1
    cache_tokens: int | None = None
    time_limit: float | None = None
    seed: int = 0
    progress: Progress | None = None

    def __post_init__(self) -> None:
        check_name("objective", self.objective, OBJECTIVES)
        check_name("mode", self.mode, MODES)
        check_schedule(self.schedule, 1, self.micro_batches, self.stages_per_rank)
        if self.is_pipeline and self.objective != "throughput":
            raise SpecError(
                f"micro_batches={self.micro_batches} make a pipeline, which is planned for "
                f"throughput; take objective='throughput' in place of {self.objective!r}"
            )
        if self.training:
            optimizer_factory(self.optimizer)
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
