"""What CUDA asks of each ATen operator's arguments, read off its schema once."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import torch


class Kind(Enum):
    """How an operator is treated."""

    VIEW = auto()
    """Shares its argument's storage, whatever the devices."""
    PLAIN = auto()
    """Arguments on one device; new storages are put there."""
    FACTORY = auto()
    """Takes a `device`: new storages go where the caller asked."""
    LISTS = auto()
    """Argument lists that belong together index by index, each index on its own device."""
    COPY = auto()
    """Writes one tensor into another, across devices."""
    COPY_LISTS = auto()
    """The same for lists."""
    LIFT = auto()
    """Hands on a tensor that was just made from Python numbers."""
    RESIZE = auto()
    """Changes the bytes of a storage."""
    COMPOSITE = auto()
    """Is made of other operators (met in inference mode only)."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One operator's treatment.

    Attributes:
        kind: see `Kind`.
        lists: positions of arguments that are lists of tensors.
        keywords: keyword arguments that are tensors, or lists of them.
        written: arguments that are written; a CPU scalar is not let off there.
        anywhere: arguments that may be on any device.
        indices: arguments that may be on the CPU instead.
        scalars: whether CPU tensors without dimensions may meet GPU tensors.
        fresh: whether there are new storages among the results.
        on_host: positions of results that are on the CPU whatever the arguments.
    """

    kind: Kind
    names: tuple[str, ...] = ()
    lists: tuple[int, ...] = ()
    keywords: tuple[str, ...] = ()
    written: frozenset[str] = frozenset()
    anywhere: frozenset[str] = frozenset()
    indices: frozenset[str] = frozenset()
    scalars: bool = True
    fresh: bool = True
    on_host: frozenset[int] = frozenset()


_ANYWHERE = {
    "aten::_pack_padded_sequence": {"lengths"},
    "aten::_pad_packed_sequence": {"batch_sizes"},
    "aten::_cudnn_rnn": {"batch_sizes"},
    "aten::lstm": {"batch_sizes"},
    "aten::gru": {"batch_sizes"},
    "aten::rnn_tanh": {"batch_sizes"},
    "aten::rnn_relu": {"batch_sizes"},
    "aten::_ctc_loss": {"input_lengths", "target_lengths"},
    "aten::_ctc_loss_backward": {"input_lengths", "target_lengths"},
    "aten::mkldnn_rnn_layer_backward": {"workspace"},
    "aten::tensor_split": {"tensor_indices_or_sections"},
    "aten::is_same_size": {"self", "other"},
    "aten::_has_same_storage_numel": {"self", "other"},
    "aten::resize_as_": {"the_template"},
}
_ON_HOST = {
    "aten::_pack_padded_sequence": {1},  # batch_sizes
    "aten::mkldnn_rnn_layer": {3},  # the CPU library's workspace; no GPU has it
}
_INDEXED = {
    "aten::index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::_unsafe_index",
    "aten::_unsafe_index_put",
}
_WITHOUT_SCALARS = {
    "aten::cat",
    "aten::stack",
    "aten::embedding",
    "aten::gather",
    "aten::index_select",
    "aten::scatter_",
    "aten::scatter_add_",
    "aten::index_add_",
    "aten::index_copy_",
}
_RESIZING = {"aten::resize_", "aten::resize_as_", "aten::set_"}


def rule_of(operator: Any) -> Rule:
    """The rule of an overload; anything that is not one is treated as plain."""
    schema = getattr(operator, "_schema", None)
    if schema is None:
        return Rule(Kind.PLAIN)
    name, arguments = schema.name, schema.arguments
    positional = [argument for argument in arguments if not argument.kwarg_only]
    named = {argument.name: str(argument.type) for argument in arguments}
    keywords = tuple(
        argument.name for argument in arguments if argument.kwarg_only and _holds_tensors(argument)
    )
    written = frozenset(
        argument.name
        for argument in arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    )
    fresh = any(result.alias_info is None and _holds_tensors(result) for result in schema.returns)
    return Rule(
        kind=_kind(operator, name, named, written, fresh),
        names=tuple(argument.name for argument in positional),
        lists=tuple(
            i
            for i, argument in enumerate(positional)
            if "List[" in str(argument.type) and _holds_tensors(argument)
        ),
        keywords=keywords,
        written=written,
        anywhere=frozenset(_ANYWHERE.get(name, ())),
        indices=frozenset({"indices"} if name in _INDEXED else ()),
        scalars=name not in _WITHOUT_SCALARS,
        fresh=fresh,
        on_host=frozenset(_ON_HOST.get(name, ())),
    )


def _kind(
    operator: Any, name: str, named: dict[str, str], written: frozenset[str], fresh: bool
) -> Kind:
    if operator.namespace == "prim":
        return Kind.VIEW
    if _has_kernel(operator, "CompositeImplicitAutograd") and not _has_kernel(operator, "CPU"):
        return Kind.COMPOSITE
    if name == "aten::copy_":
        return Kind.COPY
    if name == "aten::_foreach_copy_":
        return Kind.COPY_LISTS
    if name.startswith(("aten::_foreach_", "aten::_fused_ad", "aten::_fused_sgd")):
        return Kind.LISTS
    if name in ("aten::lift_fresh", "aten::lift_fresh_copy", "aten::lift"):
        return Kind.LIFT
    if name in _RESIZING or "out" in written:
        return Kind.RESIZE
    if "device" in named:
        return Kind.FACTORY
    if not fresh and not written:
        return Kind.VIEW
    return Kind.PLAIN


def _holds_tensors(argument: Any) -> bool:
    return "Tensor" in str(argument.type)


def _has_kernel(operator: Any, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), key)
