"""`PipelineLayout`: a recording, its stages and its schedule; how a batch becomes micro-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from partitioner.capture import Captured
from partitioner.errors import PlanError, SpecError
from partitioner.graph import StagePart, split_stages, tied_parameters
from partitioner.schedule import (
    Action,
    Orders,
    StageSeconds,
    check_schedule,
    orders,
    simulate,
)

Call = tuple[tuple[Any, ...], dict[str, Any]]


def micro_calls(args: tuple[Any, ...], kwargs: Mapping[str, Any], micro_batches: int) -> list[Call]:
    """The calls on the micro-batches of a batch.

    The batch is the first dimension of the first tensor; each tensor that has it is cut there, the
    others are the same in every micro-batch.

    Raises:
        SpecError: the batch cannot be divided equally.
    """
    if micro_batches == 1:
        return [(args, dict(kwargs))]
    batch = _batch_of(args, kwargs)
    if batch is None:
        raise SpecError(
            f"micro_batches={micro_batches}: the model's inputs have no batch to divide"
        )
    if batch % micro_batches:
        raise SpecError(
            f"micro_batches={micro_batches} do not divide the batch of {batch} equally; take a "
            f"batch of {batch - batch % micro_batches or micro_batches}, or another number"
        )

    def part(place: int) -> Call:
        def cut(tensor: Tensor) -> Tensor:
            whole = tensor.dim() == 0 or tensor.shape[0] != batch
            return tensor if whole else tensor.tensor_split(micro_batches)[place]

        return pytree.tree_map_only(Tensor, cut, (args, dict(kwargs)))  # type: ignore[no-any-return]

    return [part(place) for place in range(micro_batches)]


def first_micro_batch(args: tuple[Any, ...], kwargs: Mapping[str, Any], micro_batches: int) -> Call:
    """The first of `micro_calls`.

    Raises:
        SpecError: the batch cannot be divided equally.
    """
    return micro_calls(args, kwargs, micro_batches)[0]


def whole_batch(args: tuple[Any, ...], kwargs: Mapping[str, Any], micro_batches: int) -> Call:
    """A call with the sizes of the whole batch, from one with those of a micro-batch."""
    batch = _batch_of(args, kwargs)

    def widened(tensor: Tensor) -> Tensor:
        if tensor.dim() == 0 or tensor.shape[0] != batch:
            return tensor
        return torch.cat([tensor] * micro_batches)

    return pytree.tree_map_only(Tensor, widened, (args, dict(kwargs)))  # type: ignore[no-any-return]


def _batch_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | None:
    """The first dimension of the first tensor that has one."""
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    return next((tensor.shape[0] for tensor in tensors if tensor.dim()), None)


@dataclass(frozen=True)
class PipelineLayout:
    """What runs where and when.

    Attributes:
        captured: the recording of one micro-batch.
        parts: its stages.
        schedule: one of `partitioner.schedule.SCHEDULES`.
        micro_batches: in one step.
        ranks: devices, or processes; stage `s` is on rank `s % ranks`.
    """

    captured: Captured
    parts: tuple[StagePart, ...]
    schedule: str
    micro_batches: int
    ranks: int

    @classmethod
    def of(
        cls,
        captured: Captured,
        stage_of: Mapping[str, int],
        schedule: str,
        micro_batches: int,
        stages_per_rank: int = 1,
    ) -> PipelineLayout:
        """Divide a recording into the stages of a pipeline.

        Raises:
            PlanError: the stages do not fit the recording.
            SpecError: the schedule does not take these numbers.
        """
        parts = split_stages(captured, stage_of)
        if len(parts) % stages_per_rank:
            raise PlanError(f"{len(parts)} stages cannot be {stages_per_rank} on each rank")
        ranks = len(parts) // stages_per_rank
        check_schedule(schedule, ranks, micro_batches, stages_per_rank)
        return cls(captured, parts, schedule, micro_batches, ranks)

    @property
    def stages_per_rank(self) -> int:
        """How many stages each rank has."""
        return len(self.parts) // self.ranks

    @cached_property
    def orders(self) -> Orders:
        """By rank, what it does in a step."""
        return orders(
            self.schedule,
            self.ranks,
            self.micro_batches,
            stages_per_rank=self.stages_per_rank,
            training=self.captured.training,
        )

    @cached_property
    def sequence(self) -> tuple[Action, ...]:
        """All ranks' actions in one order that respects every rank's own: as with equal stages."""
        table = simulate(self.orders, [StageSeconds(1.0, 1.0, 1.0)] * len(self.parts))
        rows = [interval for row in table.compute for interval in row]
        rows.sort(key=lambda i: (i.start, i.end, i.action.stage))
        return tuple(interval.action for interval in rows)

    @cached_property
    def tied(self) -> dict[str, tuple[int, ...]]:
        """Parameters that several stages have, with these stages."""
        return tied_parameters(self.parts, self.captured)

    @cached_property
    def divided(self) -> dict[str, bool]:
        """By input, whether it is cut into micro-batches; the others are given to each."""
        batch = next((t.shape[0] for t in self.example.values() if t.dim()), None)
        return {name: t.dim() > 0 and t.shape[0] == batch for name, t in self.example.items()}

    @cached_property
    def example(self) -> dict[str, Tensor]:
        """The tensors of the recorded micro-batch, without data, by the name of the input."""
        return self.inputs(*self.captured.example)

    def inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tensors of a call, by the name of the input.

        Raises:
            CaptureError: the call is not as recorded.
        """
        spec = self.captured.input_spec
        return dict(zip(spec.placeholders, spec.flatten(args, kwargs), strict=True))

    def batch(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tensors of a call on a whole batch, whose sizes are checked.

        Raises:
            CaptureError: the call is not as recorded.
            PlanError: a tensor has other sizes; pipelines have buffers of fixed sizes.
        """
        given = self.inputs(args, kwargs)
        for name, example in self.example.items():
            wanted = list(example.shape)
            if self.divided[name]:
                wanted[0] *= self.micro_batches
            if list(given[name].shape) != wanted:
                raise PlanError(
                    f"input '{name}' is {list(given[name].shape)}, and this pipeline of "
                    f"{self.micro_batches} micro-batches takes {wanted}; pipelines have fixed "
                    "sizes: drop or fill up a smaller last batch, or plan again"
                )
        return given

    def micro(self, batch: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """The micro-batches of a batch."""
        cut = {
            name: tensor.tensor_split(self.micro_batches)
            if self.divided[name]
            else [tensor] * self.micro_batches
            for name, tensor in batch.items()
        }
        return [{name: cut[name][i] for name in cut} for i in range(self.micro_batches)]

    def returned(self, tensors: Sequence[Tensor]) -> Any:
        """What the model returns, from the tensors that the last stage gives."""
        output = next(iter(reversed(self.captured.graph.nodes)))
        by_name = dict(zip(self.parts[-1].wires_out, tensors, strict=True))

        plain = fx.node.map_arg(output.args[0], lambda node: by_name[node.name])
        return self.captured.output_spec.rebuild(plain)
