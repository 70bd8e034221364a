"""What an optimizer keeps and briefly needs: the real class takes steps on tensors without data."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cost_models.signatures import tensors_in
from partitioner.capture import TensorSpec
from partitioner.errors import SpecError
from partitioner.graph.ledger import StorageLedger
from partitioner.spec.names import check_name
from partitioner.virtual import rounded

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = {
    name.lower(): value
    for name, value in vars(torch.optim).items()
    if inspect.isclass(value)
    and issubclass(value, torch.optim.Optimizer)
    and value is not torch.optim.Optimizer
}
"""PyTorch's optimizers by name in lower case, such as `"adamw"`."""


@dataclass(frozen=True, slots=True)
class OptimizerMemory:
    """Bytes beside parameters and gradients, by parameter name, rounded as the allocator does.

    Attributes:
        state_nbytes: kept from step to step.
        summed_nbytes: taken during a step, for all parameters of a device at once.
        largest_nbytes: taken during a step, for one parameter after the other: a device needs the
            largest among its own.
    """

    state_nbytes: Mapping[str, int]
    summed_nbytes: Mapping[str, int]
    largest_nbytes: Mapping[str, int]


def optimizer_factory(optimizer: object) -> OptimizerFactory | None:
    """What makes the optimizer of some parameters.

    Args:
        optimizer: `None`; a name such as `"adam"` (PyTorch's defaults); a class; or a callable
            `params -> optimizer`.

    Raises:
        SpecError: the name is unknown, or it is none of these.
    """
    if optimizer is None:
        return None
    if isinstance(optimizer, str):
        check_name("optimizer", optimizer.lower(), tuple(sorted(OPTIMIZERS)))
        return OPTIMIZERS[optimizer.lower()]
    if isinstance(optimizer, torch.optim.Optimizer):
        raise SpecError(
            f"optimizer is an instance of {type(optimizer).__name__}, bound to its parameters; "
            f"give the class or a callable, such as "
            f"lambda params: torch.optim.{type(optimizer).__name__}(params)"
        )
    if not callable(optimizer):
        raise SpecError(
            f"optimizer must be a name, a class or a callable params -> optimizer, "
            f"not {optimizer!r}"
        )
    made: OptimizerFactory = optimizer
    return made


def optimizer_memory(
    parameters: Mapping[str, TensorSpec], make_optimizer: OptimizerFactory
) -> OptimizerMemory:
    """Run `make_optimizer`'s optimizer for two steps on parameters without data and count.

    The second step tells what is needed beside the state, first for all parameters together, then
    for one of each size alone: where the whole needs as much as its parts together, the parts are
    needed at once, as in PyTorch's multi-tensor ("foreach") optimizers, which are the default on
    GPUs and are switched on here; where it needs only as much as the largest part, one by one.

    Args:
        parameters: the trainable ones, by name.
        make_optimizer: as `optimizer_factory` returns.

    Raises:
        SpecError: the optimizer cannot take a step.
    """
    if not parameters:
        return OptimizerMemory({}, {}, {})
    states, transient = _two_steps(list(parameters.values()), make_optimizer)
    alone: dict[tuple[tuple[int, ...], str], int] = {}
    for spec in parameters.values():
        key = (spec.shape, spec.dtype)
        if key not in alone:
            alone[key] = _two_steps([spec], make_optimizer)[1]
    parts = {name: alone[spec.shape, spec.dtype] for name, spec in parameters.items()}
    total, largest = sum(parts.values()), max(parts.values())
    at_once = (
        min(max((transient - largest) / (total - largest), 0.0), 1.0) if total > largest else 0
    )
    return OptimizerMemory(
        state_nbytes=dict(zip(parameters, states, strict=True)),
        summed_nbytes={name: round(at_once * part) for name, part in parts.items()},
        largest_nbytes={name: round((1 - at_once) * part) for name, part in parts.items()},
    )


def _two_steps(specs: list[TensorSpec], make_optimizer: OptimizerFactory) -> tuple[list[int], int]:
    """Bytes of state by parameter, and the most that the second step takes beside it.

    `meta` stands for the GPU here: what the optimizer makes on the host stays apart.
    """
    ledger = StorageLedger(counts=lambda tensor: tensor.is_meta)
    parameters = [
        nn.Parameter(torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device="meta"))
        for spec in specs
    ]
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
        ledger.note_state(parameter, "parameter")
        ledger.note_state(parameter.grad, "gradient")
    try:
        with warnings.catch_warnings(), _AnyNumber():  # type: ignore[no-untyped-call]
            warnings.simplefilter("ignore")
            optimizer = make_optimizer(parameters)
            for group in optimizer.param_groups:
                if group.get("foreach", False) is None and not group.get("fused"):
                    group["foreach"] = True
            with ledger:
                ledger.enter(0, 0)
                _step(optimizer)
                ledger.enter(1, 0)
                state = ledger.live_nbytes
                _step(optimizer)
    except Exception as error:
        name = getattr(make_optimizer, "__qualname__", type(make_optimizer).__qualname__)
        raise SpecError(
            f"the optimizer '{name}' could not take a step on the model's shapes, so its state "
            f"cannot be counted: {type(error).__name__}: {error}; give another, or None to plan "
            f"without"
        ) from error
    kept = [_state_nbytes(optimizer, parameter) for parameter in parameters]
    return kept, ledger.peak_nbytes(1) - state


def _step(optimizer: torch.optim.Optimizer) -> None:
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        optimizer.step(lambda: 1.0)
    else:
        optimizer.step()


def _state_nbytes(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> int:
    return sum(
        rounded(int(tensor.untyped_storage().nbytes()))
        for tensor in tensors_in(optimizer.state.get(parameter, {}))
        if tensor.is_meta
    )


class _AnyNumber(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers 1 to whoever asks a `meta` tensor for its number: no state's size depends on it."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            dtype = args[0].dtype
            return 1.0 if dtype.is_floating_point else dtype is torch.bool or 1
        return func(*args, **(kwargs or {}))
