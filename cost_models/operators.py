"""Which ATen operators a piece of PyTorch calls, with what work: `observe`.

The code runs on fake tensors, so that nothing is computed or allocated, under a mode that sees
every operator that PyTorch dispatches, the backward's too. Of each call it notes

- FLOPs, from the formulas of `torch.utils.flop_counter`; there is no table of our own;
- bytes read and written: each tensor once, an expanded one by its real elements, a table that is
  indexed by as much as is taken out of it; what is changed in place is read and written;
- a signature from which `rebuild` makes arguments for a real call.

Views cost nothing and are left out, and so is what only allocates.

Fake tensors here are CPU tensors, so PyTorch picks its CPU kernels. What a GPU does otherwise:

- `scaled_dot_product_attention` runs as `_scaled_dot_product_flash_attention_for_cpu`, which is
  charged by the formula of the CUDA flash kernel: the same products. With dropout the CPU has no
  fused kernel and takes the `math` path (separate products, softmax and mask), which moves more
  bytes and saves more than a GPU's fused kernels do: an upper bound.
- `LSTM` and `GRU` may run as `mkldnn_rnn_layer` where a GPU has `_cudnn_rnn`; neither has a
  formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cost_models.errors import CostModelError
from cost_models.interface import OperatorCall
from cost_models.kernels import ALLOCATES_ONLY, TAKES_FROM, WRITES_ONLY
from cost_models.signatures import (
    dtype_name,
    element_key,
    signature_of,
    storage_key,
    tensors_in,
)

aten = torch.ops.aten

_CPU_ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: (
        aten._scaled_dot_product_flash_attention,
        slice(0, 3),
    ),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        aten._scaled_dot_product_flash_attention_backward,
        slice(0, 4),
    ),
}
"""CPU kernels that do the same products as CUDA ones which have a formula: that one, and which of
the arguments are its shapes."""


@dataclass(frozen=True, slots=True)
class Observation:
    """The operators that a call makes.

    Attributes:
        forward: in the order in which they ran.
        backward: likewise; empty unless asked for.
    """

    forward: tuple[OperatorCall, ...]
    backward: tuple[OperatorCall, ...] = ()


class OperatorRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tells `on_call` of every operator that runs and costs something."""

    def __init__(self, on_call: Callable[[OperatorCall], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._on_call = on_call
        self._known: dict[str, OperatorCall] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run `func` and describe it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if isinstance(func, torch._ops.OpOverload) and not is_free(func, args, kwargs, result):
            signature = signature_of(func, args, kwargs)
            call = self._known.get(signature)
            if call is None:
                call = self._known[signature] = _describe(func, signature, args, kwargs, result)
            self._on_call(call)
        return result


def observe(
    function: Callable[..., Any],
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    backward: bool = False,
) -> Observation:
    """Run `function` on fake copies of its tensors and return the operators that it calls.

    What decides by the values of its tensors runs on real copies instead, where there are values.

    Args:
        function: a module (its parameters and buffers are faked, too) or any callable.
        args: its arguments; tensors may be real, on `meta`, or fake.
        kwargs: its keyword arguments.
        backward: run the backward of every floating result with a gradient, too, as far as
            parameters and inputs that require gradients go.

    Raises:
        CostModelError: it cannot run on fake tensors.
    """
    leaves = pytree.tree_leaves((args, dict(kwargs or {})))
    given = next((leaf for leaf in leaves if isinstance(leaf, FakeTensor)), None)
    mode = given.fake_mode if given is not None else FakeTensorMode(allow_non_fake_inputs=True)

    try:
        with mode:
            return _run(function, args, kwargs, _without_data, backward)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        if not all(map(_is_real, (*leaves, *_state(function).values()))):
            raise _unobservable(function, error) from error
    except Exception as error:
        raise _unobservable(function, error) from error
    try:
        return _run(function, args, kwargs, torch.clone, backward)
    except Exception as error:
        raise _unobservable(function, error) from error


def _unobservable(function: Callable[..., Any], error: Exception) -> CostModelError:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return CostModelError(f"'{name}' cannot be observed on fake tensors: {error}")


def _run(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    copied: Callable[[torch.Tensor], torch.Tensor],
    backward: bool,
) -> Observation:
    """Run `function` on copies of its tensors, one for each, and perhaps its backward."""
    copies: dict[int, torch.Tensor] = {}

    def stand_in(tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        if id(tensor) not in copies:
            copy = copied(tensor.detach())
            copies[id(tensor)] = copy.requires_grad_(tensor.requires_grad)
        return copies[id(tensor)]

    phases: list[list[OperatorCall]] = [[]]
    recorder = OperatorRecorder(lambda seen: phases[-1].append(seen))
    with torch.random.fork_rng(devices=[]):
        call_args, call_kwargs = pytree.tree_map_only(
            torch.Tensor, stand_in, (tuple(args), dict(kwargs or {}))
        )
        call = function
        if isinstance(function, nn.Module):
            state = {name: stand_in(tensor) for name, tensor in _state(function).items()}
            module = function

            def call(*args: Any, **kwargs: Any) -> Any:
                return torch.func.functional_call(module, state, args, kwargs)

        with torch.set_grad_enabled(backward), recorder:
            result = call(*call_args, **call_kwargs)
        if backward:
            roots = [
                leaf
                for leaf in pytree.tree_leaves(result)
                if isinstance(leaf, torch.Tensor) and leaf.requires_grad
            ]
            gradients = [torch.ones_like(root) for root in roots]
            phases.append([])
            with recorder:
                torch.autograd.backward(roots, gradients)
    return Observation(tuple(phases[0]), tuple(phases[1]) if backward else ())


def _state(function: Callable[..., Any]) -> dict[str, torch.Tensor]:
    if not isinstance(function, nn.Module):
        return {}
    return dict(function.named_parameters()) | dict(function.named_buffers())


def _is_real(leaf: object) -> bool:
    """Whether it is no tensor without values."""
    return not isinstance(leaf, FakeTensor) and not (
        isinstance(leaf, torch.Tensor) and leaf.is_meta
    )


def _without_data(tensor: torch.Tensor) -> torch.Tensor:
    """In a fake mode: of the same size, on the CPU."""
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)


def is_free(func: Any, args: Any, kwargs: Any, result: Any) -> bool:
    """Whether the call touches no element: it makes a view, or only allocates."""
    if str(func._overloadpacket) in ALLOCATES_ONLY:
        return True
    if any(_writes(argument) for argument in func._schema.arguments):
        return False
    made = {storage_key(tensor) for tensor in tensors_in(result)}
    return made <= {storage_key(tensor) for tensor in tensors_in((args, kwargs))}


def _describe(func: Any, signature: str, args: Any, kwargs: Any, result: Any) -> OperatorCall:
    flops = _flops(func, args, kwargs, result)
    return OperatorCall(
        operator=str(func),
        signature=signature,
        dtype=_arithmetic_dtype(args, kwargs, result),
        flops=flops or 0,
        nbytes=_nbytes(func, args, kwargs, result),
        has_formula=flops is not None,
    )


def _flops(func: Any, args: Any, kwargs: Any, result: Any) -> int | None:
    packet = func._overloadpacket
    if packet in _CPU_ATTENTION:
        packet, shapes = _CPU_ATTENTION[packet]
        args, kwargs, result = _equal_heads([arg.shape for arg in args[shapes]]), {}, None
    formula = flop_registry.get(packet)
    if formula is None:
        return None
    try:
        return int(formula(*args, **kwargs, out_val=result))
    except Exception:  # formulas assert what they support; others are charged by bytes
        return None


def _equal_heads(shapes: list[torch.Size]) -> list[tuple[int, ...]]:
    """Attention shapes with as many heads of keys and values as of queries."""
    heads = max(shape[1] for shape in shapes)
    return [(shape[0], heads, *shape[2:]) for shape in shapes]


def _nbytes(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    packet = str(func._overloadpacket)
    written = list(tensors_in(_written_arguments(func, args, kwargs)))
    read = list(tensors_in((args, kwargs)))
    made = _distinct(tensor for tensor in tensors_in(result))
    known = {storage_key(tensor) for tensor in read}
    fresh = {key: size for key, size in made.items() if key[0] not in known}
    produced = sum(fresh.values()) + sum(_distinct(iter(written)).values())
    if packet in WRITES_ONLY or func._overloadname.endswith("out"):
        overwritten = {id(tensor) for tensor in written}
        read = [tensor for tensor in read if id(tensor) not in overwritten]
    consumed = _distinct(iter(read))
    if packet in TAKES_FROM and read:
        table = element_key(read[0])
        consumed[table] = min(consumed[table], produced)
    return produced + sum(consumed.values())


def _distinct(tensors: Iterator[torch.Tensor]) -> dict[tuple[Any, ...], int]:
    return {element_key(tensor): _touched_nbytes(tensor) for tensor in tensors}


def _touched_nbytes(tensor: torch.Tensor) -> int:
    """Bytes of the elements that there really are: a size with stride 0 counts once."""
    if tensor.layout != torch.strided:
        return int(tensor.numel()) * tensor.itemsize
    elements = 1
    for size, stride in zip(tensor.size(), tensor.stride(), strict=True):
        elements *= int(size) if stride or not size else 1
    return elements * tensor.itemsize


def _written_arguments(func: Any, args: Any, kwargs: Any) -> list[Any]:
    found = []
    for position, argument in enumerate(func._schema.arguments):
        if not _writes(argument):
            continue
        if not argument.kwarg_only and position < len(args):
            found.append(args[position])
        elif argument.name in kwargs:
            found.append(kwargs[argument.name])
    return found


def _writes(argument: Any) -> bool:
    return argument.alias_info is not None and bool(argument.alias_info.is_write)


def _arithmetic_dtype(args: Any, kwargs: Any, result: Any) -> str:
    tensors = list(tensors_in((args, kwargs))) or list(tensors_in(result))
    floating = [tensor for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()]
    return dtype_name((floating or tensors)[0].dtype) if tensors else "float32"
