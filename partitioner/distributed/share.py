"""What a process has of a pipeline: some stages, seen as one set of parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from partitioner.distributed.layout import PipelineLayout
from partitioner.emit import StageModule
from partitioner.graph import training_loss


class Share(ABC):
    """The stages of one process.

    A parameter that several stages have is in `named_parameters` once for each; their gradients are
    summed in every step, so that all copies stay equal under the same optimizer.
    """

    def __init__(self, layout: PipelineLayout, stages: Sequence[StageModule]) -> None:
        self.layout = layout
        self.stages = tuple(stages)

    def step(
        self,
        *args: Any,
        target: Any = None,
        losses: list[Tensor] | None = None,
        **kwargs: Any,
    ) -> Any:
        """One step on a whole batch, called as the model is; in training with its backward.

        Every process of the pipeline is called alike. Gradients are those of the mean of the
        micro-batches' losses. In the process that has the last stage the loss is computed.

        Args:
            args: positional arguments of the model.
            target: given to the loss, divided as the batch is.
            losses: is filled with the loss of each micro-batch where these are computed.
            kwargs: keyword arguments of the model.

        Returns:
            What the model returns, for the whole batch and without gradients; `None` in a process
            that does not have the last stage.
        """
        return self.step_on(self.layout.batch(args, kwargs), target, losses)

    @abstractmethod
    def step_on(
        self,
        batch: Mapping[str, Tensor],
        target: Any = None,
        losses: list[Tensor] | None = None,
    ) -> Any:
        """`step`, with the tensors of the call by the name of the input."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of all stages, as an optimizer takes them."""
        for stage in self.stages:
            yield from stage.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names as in the original, and parameters."""
        for stage in self.stages:
            yield from stage.named_parameters()

    def canonical_names(self) -> dict[Tensor, str]:
        """By parameter, the first of its names in the original."""
        first = {
            name: canonical
            for canonical, state in self.layout.captured.state.items()
            for name in state.names
        }
        return {parameter: first[name] for name, parameter in self.named_parameters()}

    def state_dict(self) -> dict[str, Tensor]:
        """Names as in the original, of what these stages have."""
        found: dict[str, Tensor] = {}
        for stage in self.stages:
            found.update(stage.state_dict())
        return found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what these stages need from the original's `state_dict`, or a part of it."""
        for stage in self.stages:
            stage.load_state_dict({name: state[name] for name in stage.state_dict()})

    def train(self, mode: bool = True) -> Share:
        """Set the mode of every stage."""
        for stage in self.stages:
            stage.train(mode)
        return self

    def eval(self) -> Share:
        """Set evaluation mode."""
        return self.train(False)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset all gradients."""
        for stage in self.stages:
            stage.zero_grad(set_to_none)

    def copies(self, name: str) -> list[nn.Parameter]:
        """The copies of a tied parameter in these stages, by canonical name."""
        names = self.layout.captured.state[name].names
        found = []
        for stage in self.stages:
            if name in stage.part.state:
                held = dict(stage.named_parameters(remove_duplicate=False))
                found.append(next(held[alias] for alias in names if alias in held))
        return found

    def _sum_tied_here(self) -> None:
        """Give all copies of a parameter within these stages the sum of their gradients."""
        for name in self.layout.tied:
            copies = self.copies(name)
            gradients = [copy.grad for copy in copies if copy.grad is not None]
            if len(copies) < 2 or not gradients:
                continue
            total = gradients[0]
            for gradient in gradients[1:]:
                total = total + gradient.to(total.device)
            for copy in copies:
                copy.grad = total.to(copy.device, copy=True)


def model_loss(output: Any, target: Any) -> Tensor:
    """The loss of a model that returns its own."""
    return training_loss(output)


def merged(layout: PipelineLayout, returned: Sequence[Sequence[Tensor]]) -> Any:
    """What the model returns for a whole batch, from what it returned for the micro-batches."""
    return layout.returned(joined(returned))


def joined(returned: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Tensors of micro-batches joined along the batch; of scalars the mean is taken."""
    return [
        torch.stack(parts).mean(0) if parts[0].dim() == 0 else torch.cat(parts)
        for parts in zip(*returned, strict=True)
    ]
