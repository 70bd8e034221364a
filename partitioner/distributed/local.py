"""`LocalPipeline`: micro-batches flow through the GPUs of one process.

The host asks for the work in the order of the timetable. CUDA does not wait for it: while one GPU
computes, the next one already has the micro-batch before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from partitioner.distributed.layout import PipelineLayout
from partitioner.distributed.share import Share, merged, model_loss
from partitioner.emit import Readers, make_stage
from partitioner.schedule import Action, Kind


class LocalPipeline(Share):
    """A model as stages on the devices of this process.

    Attributes:
        layout: stages and schedule.
        stages: their modules.
        executed: the actions of the last step, in the order in which they were asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: PipelineLayout,
        devices: Sequence[str | torch.device],
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        data: Readers = MappingProxyType({}),
    ) -> None:
        """Copy `model` onto `devices`, one for each rank.

        Args:
            model: the recorded model; not modified.
            layout: stages and schedule.
            devices: by rank.
            loss_fn: of what the model returns for a micro-batch and its target, a mean over the
                micro-batch; without one, the scalar that the model itself returns.
            data: what reads the tensors that do not come from `model`.
        """
        stages = [
            make_stage(
                model,
                layout.captured,
                part,
                devices[part.index % layout.ranks],
                last=part.index == len(layout.parts) - 1,
                data=data,
            )
            for part in layout.parts
        ]
        super().__init__(layout, stages)
        self.loss_fn = loss_fn or model_loss
        self.executed: tuple[Action, ...] = ()

    def step_on(
        self,
        batch: Mapping[str, Tensor],
        target: Any = None,
        losses: list[Tensor] | None = None,
    ) -> Any:
        """See `Share.step_on`."""
        micro = self.layout.micro(batch)
        count = self.layout.micro_batches
        targets = [None] * count if target is None else target.tensor_split(count)
        run = _Run(self, micro, targets)
        self.executed = self.layout.sequence
        for action in self.executed:
            run.do(action)
        self._sum_tied_here()
        if losses is not None:
            losses[:] = run.losses
        return merged(self.layout, run.returned)


class _Run:
    """The values of one step that are in flight."""

    def __init__(
        self, pipeline: LocalPipeline, micro: list[dict[str, Tensor]], targets: Sequence[Any]
    ) -> None:
        self.pipeline = pipeline
        self.layout = pipeline.layout
        self.micro = micro
        self.targets = targets
        self.wires: dict[tuple[int, int], tuple[Tensor, ...]] = {}
        self.outputs: dict[tuple[int, int], tuple[Tensor, ...]] = {}
        self.gradients: dict[tuple[int, int], tuple[Tensor | None, ...]] = {}
        self.losses: list[Tensor] = []
        self.returned: list[tuple[Tensor, ...]] = []

    def do(self, action: Action) -> None:
        """Ask for the work of one action."""
        if action.kind == Kind.FORWARD:
            self._forward(action.stage, action.micro_batch)
        elif action.kind != Kind.BACKWARD_WEIGHT:
            self._backward(action.stage, action.micro_batch)

    def _forward(self, stage: int, micro_batch: int) -> None:
        module = self.pipeline.stages[stage]
        training = self.layout.captured.training
        wires = self.wires.pop((stage, micro_batch), ())
        with torch.set_grad_enabled(training):
            given = tuple(_arrived(wire, module.device, training) for wire in wires)
            del wires
            inputs = {name: self.micro[micro_batch][name] for name in module.part.inputs}
            out = module(*given, **inputs)
            if stage + 1 < len(self.pipeline.stages):
                self.wires[stage + 1, micro_batch] = out
            else:
                self.returned.append(tuple(tensor.detach() for tensor in out))
                if training:
                    loss = self.pipeline.loss_fn(
                        self.layout.returned(out), self.targets[micro_batch]
                    )
                    self.losses.append(loss.detach())
                    out = (loss / self.layout.micro_batches,)
        if training:
            self.wires[stage, ~micro_batch] = given
            self.outputs[stage, micro_batch] = out

    def _backward(self, stage: int, micro_batch: int) -> None:
        outputs = self.outputs.pop((stage, micro_batch))
        given = self.wires.pop((stage, ~micro_batch))
        gradients = self.gradients.pop((stage, micro_batch), (None,) * len(outputs))
        roots = [
            (output, gradient)
            for output, gradient in zip(outputs, gradients, strict=True)
            if output.requires_grad and (gradient is not None or output.dim() == 0)
        ]
        del outputs, gradients
        if roots:
            torch.autograd.backward(
                [output for output, _ in roots], [gradient for _, gradient in roots]
            )
        if stage:
            before = self.pipeline.stages[stage - 1].device
            self.gradients[stage - 1, micro_batch] = tuple(
                None if wire.grad is None else wire.grad.to(before) for wire in given
            )


def _arrived(wire: Tensor, device: torch.device, training: bool) -> Tensor:
    """A wire as the next stage takes it: a leaf on its device."""
    needs = training and wire.requires_grad
    return wire.detach().to(device).requires_grad_(needs)
