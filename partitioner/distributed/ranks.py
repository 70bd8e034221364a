"""`RankPipeline`: one process of a pipeline, on `torch.distributed.pipelining`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import (
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
)
from torch.distributed.pipelining.microbatch import TensorChunkSpec, _Replicate

from partitioner.capture import TensorSpec
from partitioner.distributed.layout import PipelineLayout
from partitioner.distributed.pulse import doing
from partitioner.distributed.share import Share, merged, model_loss
from partitioner.distributed.stage import RankStage
from partitioner.emit import Readers, make_stage
from partitioner.errors import PlanError
from partitioner.graph import wire_specs

_CUT = TensorChunkSpec(0)  # type: ignore[no-untyped-call]
SCHEDULE_CLASSES: dict[str, Any] = {
    "gpipe": ScheduleGPipe,
    "1f1b": Schedule1F1B,
    "interleaved": ScheduleInterleaved1F1B,
    "zero-bubble": ScheduleInterleavedZeroBubble,
}


class RankPipeline(Share):
    """The stages of one rank, wrapped as `PipelineStage`s under the schedule of the plan.

    Attributes:
        layout: stages and schedule.
        stages: the modules of this rank.
        schedule: of `torch.distributed.pipelining`.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: PipelineLayout,
        device: str | torch.device,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        group: dist.ProcessGroup | None = None,
        replicas: dist.ProcessGroup | None = None,
        identity: Mapping[str, str] | None = None,
        data: Readers = MappingProxyType({}),
    ) -> None:
        """Copy this rank's part of `model` to `device`.

        Every process of the group must do this. Parameters are equal on all ranks when `model` is.

        Args:
            model: the recorded model; not modified.
            layout: stages and schedule.
            device: of this process.
            loss_fn: of what the model returns for a micro-batch and its target, a mean over the
                micro-batch; without one, the scalar that the model itself returns.
            group: whose ranks are those of the layout; `None` is the default group.
            replicas: the processes that have the same stages and train on other data; gradients
                are averaged over them.
            identity: what must be equal in all processes, by what it is.
            data: what reads the tensors that do not come from `model`; of other ranks' tensors
                it is not called.

        Raises:
            PlanError: the group has another size than the plan, or the processes differ in
                `identity`.
        """
        size, rank = dist.get_world_size(group), dist.get_rank(group)
        if size != layout.ranks:
            raise PlanError(
                f"the plan is for {layout.ranks} processes, and {size} were started; run it with "
                f"`torchrun --nproc-per-node {layout.ranks}`, or plan for {size} devices"
            )
        _check_identity(dict(identity or {}), "rank", group)
        if replicas is not None:
            _check_identity(dict(identity or {}), "replica", replicas)
        count = len(layout.parts)
        mine = [part for part in layout.parts if part.index % size == rank]
        stages = [
            make_stage(
                model,
                layout.captured,
                part,
                device,
                last=part.index == count - 1,
                data=data,
            )
            for part in mine
        ]
        super().__init__(layout, stages)
        self.group = group
        self.replicas = replicas
        wrapped = [
            RankStage(
                stage,
                stage.part.index,
                count,
                torch.device(device),
                input_args=tuple(map(_example, taken)),
                output_args=tuple(map(_example, given)),
                group=group,
            )
            for stage in stages
            for taken, given in [wire_specs(layout.captured, stage.part)]
        ]
        loss = loss_fn or model_loss

        def loss_of(tensors: Any, target: Any) -> Tensor:
            found = tensors if isinstance(tensors, tuple) else (tensors,)
            return loss(layout.returned(found), target)

        multiple = layout.schedule in ("interleaved", "zero-bubble")
        self.schedule = SCHEDULE_CLASSES[layout.schedule](
            wrapped if multiple else wrapped[0],
            layout.micro_batches,
            loss_fn=loss_of if layout.captured.training else None,
            kwargs_chunk_spec={
                name: _CUT if layout.divided[name] else _Replicate for name in self._inputs()
            },
        )
        self._tied_groups = self._make_tied_groups(rank)

    def step_on(
        self,
        batch: Mapping[str, Tensor],
        target: Any = None,
        losses: list[Tensor] | None = None,
    ) -> Any:
        """See `Share.step_on`."""
        given = {name: batch[name] for name in self._inputs()}
        if target is None:
            target = torch.zeros(self.layout.micro_batches)
        returned: list[tuple[Tensor, ...]] = []
        hook = self.stages[-1].register_forward_hook(
            lambda stage, given, out: returned.append(tuple(t.detach() for t in out))
        )
        try:
            with doing("waiting in the pipeline's step"):
                self.schedule.step(target=target, losses=losses, return_outputs=False, **given)
        finally:
            hook.remove()
        if self.layout.captured.training:
            self._sum_tied()
            self._average_replicas()
        is_last = self.stages[-1].part.index == len(self.layout.parts) - 1
        return merged(self.layout, returned) if is_last else None

    def _inputs(self) -> tuple[str, ...]:
        """The model's inputs that this rank reads."""
        return tuple(dict.fromkeys(name for stage in self.stages for name in stage.part.inputs))

    def _make_tied_groups(self, rank: int) -> dict[str, dist.ProcessGroup | None]:
        """For each tied parameter of this rank, the ranks that have it; `None` if only this one."""
        found: dict[str, dist.ProcessGroup | None] = {}
        for name, stages in self.layout.tied.items():
            ranks = sorted({stage % self.layout.ranks for stage in stages})
            group = None
            if len(ranks) > 1:
                every = self.group or dist.distributed_c10d._get_default_group()
                group = dist.new_group(
                    [dist.get_global_rank(every, r) for r in ranks],
                    use_local_synchronization=self.group is not None,
                )
            if rank in ranks:
                found[name] = group
        return found

    def _sum_tied(self) -> None:
        """Sum the gradients of tied parameters over all stages that have them."""
        self._sum_tied_here()
        for name, group in self._tied_groups.items():
            if group is None:
                continue
            copies = self.copies(name)
            total = copies[0].grad
            if total is None:
                total = torch.zeros_like(copies[0])
            dist.all_reduce(total, group=group)
            for copy in copies:
                copy.grad = total if copy is copies[0] else total.clone()

    def _average_replicas(self) -> None:
        """Average all gradients over the replicas."""
        if self.replicas is None:
            return
        for parameter in self.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad, group=self.replicas)
                parameter.grad /= dist.get_world_size(self.replicas)


def _check_identity(identity: dict[str, str], called: str, group: dist.ProcessGroup | None) -> None:
    """Refuse to start where processes, each `called` by its number, differ; all of them do."""
    found: list[dict[str, str]] = [{} for _ in range(dist.get_world_size(group))]
    dist.all_gather_object(found, identity, group)
    for what in identity:
        values = [each.get(what, "nothing") for each in found]
        if len(set(values)) > 1:
            told = ", ".join(f"{called} {rank} has {value}" for rank, value in enumerate(values))
            raise PlanError(
                f"the processes differ in their {what}: {told}; start all with the same"
            )


def _example(spec: TensorSpec) -> Tensor:
    """A tensor without data that has the sizes of a wire."""
    made = torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device="meta")
    return made.requires_grad_(spec.requires_grad)
