"""`Captured`: a model as a `torch.fx` graph, and all that later stages need to know of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from partitioner.capture.conditions import Condition
from partitioner.capture.inputs import InputSpec
from partitioner.capture.layers import Layer, TensorValue
from partitioner.capture.structure import Structure


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor's shape and type, without its data.

    Attributes:
        shape: sizes, for the example inputs.
        dtype: the name after `torch.`, such as `"float32"`.
        nbytes: bytes of its elements (`numel * itemsize`).
        requires_grad: whether autograd follows it.
    """

    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    requires_grad: bool = False

    @classmethod
    def of(cls, tensor: Tensor) -> TensorSpec:
        """Describe a tensor."""
        dtype = str(tensor.dtype).removeprefix("torch.")
        nbytes = tensor.numel() * tensor.dtype.itemsize
        return cls(tuple(tensor.shape), dtype, nbytes, tensor.requires_grad)


@dataclass(frozen=True, slots=True)
class StateSpec:
    """A parameter, buffer or plain tensor attribute of the model.

    Attributes:
        tensor: its shape and type.
        role: `"parameter"`, `"buffer"` (persistent or not) or `"constant"` (a tensor attribute or
            closure that is not in the `state_dict`).
        names: every qualified name under which it is reachable; the first is canonical.
    """

    tensor: TensorSpec
    role: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What the recording knows of one node of the graph.

    Attributes:
        module_path: qualified name of the innermost module whose `forward` made the node; for a
            leaf module's call, that module's own path. `""` is the root.
        value: `TensorSpec` of a tensor result; a tuple (list, dict) of them for a structure;
            `None` for anything else.
        state: canonical names of the parameters, buffers and constants that live where this node
            runs: a leaf module's own ones, or the one that a `get_attr` node reads. A leaf
            module's state that another node uses too is in `shared` instead.
        shared: for a leaf module's call, `{name inside the module: get_attr node}` of the state
            that other nodes use too (tied weights, a module called twice). On another device than
            that node, the call must be made with a moved copy.
        mutates: names of the nodes (itself not included) whose tensors this node changes in place,
            views and aliases included. They are colocated with this node. A copy of one of them
            that was made on another device before this node ran is stale afterwards: a later
            user there needs a new copy. Later users of the changed tensor's own Python name refer
            to this node, except after a call that returns nothing (`setitem`), where they keep
            the earlier node and come later in the order.
        creates: the node makes a tensor out of nothing (`arange`, `zeros`, `tensor`), and so must
            be told its device.
        grad_enabled: whether autograd was on.
        autocast: `(device_type, dtype name, enabled, cache_enabled)` of the innermost autocast
            region that the model's own code had opened; `None` outside.
        checkpointed: a leaf module's call that the model made under `torch.utils.checkpoint`.
        line: the user's line, `file.py:12: x = self.lin1(x)`.
    """

    module_path: str
    value: Any
    state: tuple[str, ...] = ()
    shared: Mapping[str, str] = field(default_factory=dict)
    mutates: tuple[str, ...] = ()
    creates: bool = False
    grad_enabled: bool = True
    autocast: tuple[str, str, bool, bool] | None = None
    checkpointed: bool = False
    line: str = ""


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One call of a module that was recorded through (not a leaf).

    Attributes:
        path: qualified name of the module.
        nodes: names of the nodes made inside, a contiguous run of the graph's order.
        args: positional arguments, with `fx.Node` in the place of each tracked value.
        kwargs: keyword arguments, likewise.
        result: what it returned, likewise.
        foldable: calling the module itself on the device of all its nodes does the same: its
            factories follow their inputs' device, and nothing made inside is used outside except
            through `result`.
    """

    path: str
    nodes: tuple[str, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any
    foldable: bool


@dataclass(frozen=True)
class Captured:
    """A model, recorded.

    Invariants: the graph holds no device (factories and `.to` have lost theirs); in it a leaf
    module is a `call_module`, everything else a `call_function` or `call_method`; structures are
    taken apart by `operator.getitem`; after an in-place change, later uses refer to the node that
    changed it where Python's names do; execution order is the recorded order. Sizes that vary with
    the inputs are numbers that nodes make (`size`, then `operator` and `math` functions); a
    `get_attr` of `<module path>.training` reads that module's flag. Both have no `value`.

    Attributes:
        graph: the recording. Placeholders stand for the tensor leaves of the inputs.
        nodes: by node name, for every node but `output`.
        state: by canonical name.
        calls: the calls of non-leaf modules, outermost first.
        colocated: groups of nodes that must share a device whatever the solver likes: aliases of
            a storage that is changed in place, users of one mutated buffer, a structure and its
            `getitem`s.
        signature: of the model's `forward`, without `self`.
        input_spec: how a call's arguments flatten to the placeholders.
        output_spec: how to turn what `output` holds into what the model returns. `output` holds
            lists, tuples and dicts of nodes and plain constants; an object (dataclass, named
            tuple, model output, cache) is a dict of its fields (a tuple for a named tuple) there,
            and `output_spec.rebuild(...)` makes the object again.
        model_class: qualified name of the model's class.
        training: the mode that was recorded.
        example: the example call, `(args, kwargs)`, on fake CPU tensors with fixed sizes.
        alternate: the recording in the other mode where the two differ in more than constants
            that follow `module.training`; `None` where `graph` serves both.
        opaque: `{module path: reason}` of modules that became leaves since they could not be
            recorded through. With `""` in it, the model's own code is what runs, and the graph is
            one node or, as a sketch, one way through it (`partitioner.capture.sketch`).
        constants: tensors that belong to no module (closures, arrays turned into tensors), by the
            target of their `get_attr` node.
        dynamic: the recording holds for other sizes of the inputs, as far as `conditions` allow;
            otherwise for the example's sizes only.
        specialised: `(placeholder, dimension, size)` of the sizes that are fixed.
        conditions: what the sizes must meet, `specialised` included.
        other_mode_error: why the other mode cannot be recorded; the graph serves one mode then.
        layers: by path, how each leaf module was made.
        values: by canonical name, the data of small tensors that are not in the `state_dict`.
        volatile: names of the buffers that are not in the `state_dict`.
    """

    graph: fx.Graph
    nodes: Mapping[str, NodeInfo]
    state: Mapping[str, StateSpec]
    calls: tuple[ModuleCall, ...]
    colocated: tuple[tuple[str, ...], ...]
    signature: inspect.Signature
    input_spec: InputSpec
    output_spec: Structure
    model_class: str
    training: bool
    example: tuple[tuple[Any, ...], dict[str, Any]]
    alternate: Captured | None = None
    opaque: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    dynamic: bool = True
    specialised: tuple[tuple[str, int, int], ...] = ()
    conditions: tuple[Condition, ...] = ()
    other_mode_error: str = ""
    layers: Mapping[str, Layer] = field(default_factory=dict)
    values: Mapping[str, TensorValue] = field(default_factory=dict)
    volatile: tuple[str, ...] = ()


def tensor_specs(value: Any) -> Iterator[TensorSpec]:
    """The tensors of `NodeInfo.value`, in order."""
    if isinstance(value, TensorSpec):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from tensor_specs(entry)
    elif isinstance(value, (tuple, list)):
        for entry in value:
            yield from tensor_specs(entry)


def holds_tensor(value: Any) -> bool:
    """Whether `NodeInfo.value` is or contains a tensor."""
    return next(tensor_specs(value), None) is not None
