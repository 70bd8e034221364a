"""The loss that a training step is planned with: what it is computed from, where, and of what."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from partitioner.errors import SpecError
from partitioner.spec.names import check_name

CLASSES, LIKE = "classes", "like"
LOSSES: Mapping[str, tuple[type[nn.Module], str]] = {
    "cross_entropy": (nn.CrossEntropyLoss, CLASSES),
    "nll_loss": (nn.NLLLoss, CLASSES),
    "multi_margin_loss": (nn.MultiMarginLoss, CLASSES),
    "mse_loss": (nn.MSELoss, LIKE),
    "l1_loss": (nn.L1Loss, LIKE),
    "smooth_l1_loss": (nn.SmoothL1Loss, LIKE),
    "huber_loss": (nn.HuberLoss, LIKE),
    "binary_cross_entropy": (nn.BCELoss, LIKE),
    "binary_cross_entropy_with_logits": (nn.BCEWithLogitsLoss, LIKE),
    "kl_div": (nn.KLDivLoss, LIKE),
    "poisson_nll_loss": (nn.PoissonNLLLoss, LIKE),
    "soft_margin_loss": (nn.SoftMarginLoss, LIKE),
    "multilabel_soft_margin_loss": (nn.MultiLabelSoftMarginLoss, LIKE),
}
"""PyTorch's losses of one output and one target, by their name in `torch.nn.functional`: the class,
and whether the target holds class indices or is like the output."""


@dataclass(frozen=True)
class Loss:
    """From what a model returns to the scalar that a step begins its backward from.

    Attributes:
        name: as the plan calls it; `None` where no loss was given. A scalar floating output is the
            loss then, else the mean square of every floating output that has a gradient.
        function: `(output, *targets) -> scalar`. One of `LOSSES` is given the tensor that the model
            returns, or its `logits`; any other whatever the model returns.
        torch_name: its name in `LOSSES`, if it is one of them.
        targets: examples, of which sizes and types count; `None` where they follow from the output.
    """

    name: str | None = None
    function: Callable[..., Any] | None = None
    torch_name: str | None = None
    targets: tuple[Tensor, ...] | None = None

    def __call__(
        self, output: object, begin_term: Callable[[Tensor], None] = lambda _: None
    ) -> Tensor:
        """The loss, on the device of the outputs, to which targets are moved.

        Args:
            output: what the model returned.
            begin_term: told of each output just before its part of the loss is computed.

        Raises:
            SpecError: no output has a gradient, or the loss does not take the outputs.
        """
        if self.function is None:
            return training_loss(output, begin_term)
        first = _trainable(output)[0] if self.torch_name is None else _single(output, self.name)
        begin_term(first)
        given, targets = self._arguments(output, first)
        function = self.function
        if isinstance(function, nn.Module):
            function = _beside(function, first)
        try:
            loss = function(given, *targets)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
            shapes = ", ".join(str(list(target.shape)) for target in targets) or "none"
            raise SpecError(
                f"the loss '{self.name}' does not take what the model returns "
                f"({_described(given)}; targets: {shapes}): {type(error).__name__}: {error}"
            ) from error
        if not isinstance(loss, Tensor) or loss.dim():
            raise SpecError(
                f"the loss '{self.name}' gives {_described(loss)}; a backward begins from a scalar"
            )
        return loss

    def _arguments(self, output: object, first: Tensor) -> tuple[object, tuple[Tensor, ...]]:
        """What the function is given: of the output, whose first tensor is `first`, and targets."""
        targets = tuple(target.to(first.device) for target in self.targets or ())
        if self.torch_name is None:
            return output, targets
        if self.targets is None:
            targets = (_target_of(first, self.torch_name).to(first.device),)
        wants_classes = LOSSES[self.torch_name][1] == CLASSES
        if wants_classes and len(targets) == 1 and _classes_are_last(first, targets[0]):
            return first.flatten(0, -2), (targets[0].flatten(),)
        return first, targets

    def without_data(self) -> Loss:
        """The loss with targets of zeros, which are valid class indices, in the place of data."""
        return self._with_targets(lambda target: True)

    def with_data(self) -> Loss:
        """The loss with zeros in the place of targets that have no data (on `meta`, or fake)."""
        return self._with_targets(lambda t: t.is_meta or isinstance(t, FakeTensor))

    def _with_targets(self, replaced: Callable[[Tensor], bool]) -> Loss:
        if self.targets is None:
            return self
        targets = (
            torch.zeros(t.shape, dtype=t.dtype, device="cpu") if replaced(t) else t
            for t in self.targets
        )
        return dataclasses.replace(self, targets=tuple(targets))


OUTPUT_LOSS = Loss()
"""The one where none was given."""


def loss_of(loss: object, targets: object = None) -> Loss:
    """What a person means by a loss.

    Args:
        loss: `None`; a `Loss`; a name in `LOSSES` or of its class (`"CrossEntropyLoss"`); such a
            class, an instance, or any callable `(output, *targets) -> scalar`.
        targets: an example tensor, or several; `None` where they follow from the output.

    Raises:
        SpecError: the name is unknown, it is none of these, or targets are missing.
    """
    if isinstance(loss, Loss):
        return loss
    examples = _examples(targets)
    if loss is None:
        if examples is not None:
            raise SpecError("targets without a loss: say loss=, such as loss='cross_entropy'")
        return OUTPUT_LOSS
    by_class = {kind: name for name, (kind, _) in LOSSES.items()}
    if isinstance(loss, str):
        classes = {kind.__name__: name for kind, name in by_class.items()}
        plain = classes.get(loss) or check_name("loss", loss, (*LOSSES, *classes))
    elif isinstance(loss, type) and issubclass(loss, nn.Module):
        if loss not in by_class:
            return loss_of(loss(), targets)
        plain = by_class[loss]
    else:
        plain = next((name for name in LOSSES if loss is getattr(F, name)), "")
    if plain:
        return Loss(plain, getattr(F, plain), plain, examples)
    if not callable(loss):
        raise SpecError(
            f"loss must be a name, a class or a callable (output, *targets) -> scalar, not {loss!r}"
        )
    torch_name = by_class.get(type(loss)) if isinstance(loss, nn.Module) else None
    named = loss if hasattr(loss, "__qualname__") else type(loss)
    name = f"{named.__module__}.{named.__qualname__}"
    if torch_name is None and examples is None:
        _check_takes_the_output_alone(loss, name)
    return Loss(name, loss, torch_name, examples)


def training_loss(output: object, begin_term: Callable[[Tensor], None] = lambda _: None) -> Tensor:
    """A scalar to begin the backward from where no loss was given; see `Loss`.

    Raises:
        SpecError: no output has a gradient.
    """
    floating = _trainable(output)
    scalars = [tensor for tensor in floating if tensor.dim() == 0]
    if scalars:
        return scalars[0]
    losses = []
    for tensor in floating:
        begin_term(tensor)
        losses.append(tensor.float().pow(2).mean())
    return sum((loss.to(losses[0].device) for loss in losses[1:]), losses[0])


def trainable_outputs(output: object) -> list[Tensor]:
    """The tensors of what a model returns from which a backward can begin."""
    return [
        tensor
        for tensor in output_tensors(output)
        if tensor.is_floating_point() and tensor.requires_grad
    ]


def output_tensors(output: object) -> list[Tensor]:
    """The tensors of what a model returns: in containers, registered classes and dataclasses."""
    found: list[Tensor] = []
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            for field in dataclasses.fields(leaf):
                found += output_tensors(getattr(leaf, field.name))
    return found


def _trainable(output: object) -> list[Tensor]:
    found = trainable_outputs(output)
    if not found:
        raise SpecError(
            "the model returns no floating tensor with a gradient, so there is nothing to train; "
            "plan it for inference, or return what a loss is made of"
        )
    return found


def _single(output: object, name: str | None) -> Tensor:
    """The tensor that one of PyTorch's losses is given."""
    found = _trainable(output)
    logits = output.get("logits") if isinstance(output, Mapping) else None
    logits = getattr(output, "logits", logits)
    if len(found) > 1 and not isinstance(logits, Tensor):
        raise SpecError(
            f"the model returns {len(found)} tensors with a gradient, and '{name}' takes one: give "
            "loss a function of what the model returns, such as "
            f"lambda output, target: torch.nn.functional.{name}(output[0], target)"
        )
    return logits if isinstance(logits, Tensor) else found[0]


def _target_of(output: Tensor, torch_name: str) -> Tensor:
    """Zeros of the sizes that a target of this output has."""
    if LOSSES[torch_name][1] == LIKE:
        return torch.zeros(output.shape, dtype=output.dtype, device="cpu")
    if output.dim() == 3:
        batch, one, other = output.shape
        raise SpecError(
            f"where the classes are in an output of {[batch, one, other]} cannot be told: give "
            f"targets= of int64{[batch, one]} where they are last, as a language model's, or of "
            f"int64{[batch, other]} where they come second"
        )
    shape = (*output.shape[:1], *output.shape[2:]) if output.dim() > 1 else ()
    return torch.zeros(shape, dtype=torch.int64, device="cpu")


def _classes_are_last(output: Tensor, target: Tensor) -> bool:
    """Whether the target has an index for each row of the output, as those of language models."""
    second = (*output.shape[:1], *output.shape[2:])
    return (
        output.dim() > 2
        and not target.is_floating_point()
        and target.shape == output.shape[:-1]
        and target.shape != second
    )


def _beside(module: nn.Module, output: Tensor) -> Callable[..., Any]:
    """A loss with weights of its own, called with them on the output's device."""
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    moved = {name: tensor.to(output.device) for name, tensor in state.items()}
    return lambda *given: torch.func.functional_call(module, moved, given)


def _examples(targets: object) -> tuple[Tensor, ...] | None:
    if targets is None:
        return None
    found = (targets,) if isinstance(targets, Tensor) else targets
    if not isinstance(found, list | tuple) or not all(isinstance(t, Tensor) for t in found):
        raise SpecError("targets must be a tensor or several, such as torch.empty(64).long()")
    return tuple(found)


def _check_takes_the_output_alone(function: Callable[..., Any], name: str) -> None:
    """A loss without targets must not ask for any."""
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise SpecError(
            f"the loss '{name}' takes more than the output ({error}); give an example of the rest: "
            "targets="
        ) from error
    except ValueError:
        return


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return type(value).__name__
