"""The records of which a program in a plan document is made."""

from __future__ import annotations

import msgspec

from partitioner.capture.values import Value


class NodeRecord(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, eq=False
):
    """One node of the graph, with what the recording knows of it; see `NodeInfo`.

    Two are equal if they differ in no more than the line of the user's code.
    """

    name: str
    op: str
    target: str
    args: tuple[Value, ...] = ()
    kwargs: dict[str, Value] = {}
    module_path: str = ""
    value: Value = None
    state: tuple[str, ...] = ()
    shared: dict[str, str] = {}
    mutates: tuple[str, ...] = ()
    creates: bool = False
    grad_enabled: bool = True
    autocast: tuple[str, str, bool, bool] | None = None
    checkpointed: bool = False
    line: str = ""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NodeRecord):
            return NotImplemented
        return all(
            getattr(self, name) == getattr(other, name)
            for name in self.__struct_fields__
            if name != "line"
        )

    def __hash__(self) -> int:
        return hash((self.name, self.op, self.target))


class CallRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One call of a module that was recorded through; see `ModuleCall`."""

    path: str
    nodes: tuple[str, ...]
    args: tuple[Value, ...] = ()
    kwargs: dict[str, Value] = {}
    result: Value = None
    foldable: bool = False


class TensorStateRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One parameter, buffer or constant; see `StateSpec`."""

    names: tuple[str, ...]
    role: str
    tensor: Value


class ClassRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A class of inputs or results, by name.

    Attributes:
        name: qualified name within its module.
        module: where it is imported from.
        base: `"dict"`, `"tuple"` or `""`.
        fields: of a dataclass, those that its constructor takes.
        is_dataclass: whether it is one.
        prepares: it is a dataclass with a `__post_init__`.
        is_sequence: it is one of the tuples that PyTorch's functions return.
    """

    name: str
    module: str
    base: str = ""
    fields: tuple[str, ...] = ()
    is_dataclass: bool = False
    prepares: bool = False
    is_sequence: bool = False


class StructureRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A nested value apart from its tensors; see `Structure`.

    A constant that a document cannot hold has its class in `type` and no `value`.
    """

    kind: str
    type: str | ClassRecord | None = None
    keys: tuple[Value, ...] = ()
    items: tuple[StructureRecord, ...] = ()
    value: Value = None


class ParameterRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A parameter of `forward`.

    Attributes:
        name: its name.
        kind: the name of its `inspect` kind.
        default: what it is when left out; `required` if that is not possible.
        required: it has no default.
    """

    name: str
    kind: str
    default: Value = None
    required: bool = False


class ConditionRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the sizes of the inputs must meet; see `Condition`."""

    expression: Value


class LayerRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a leaf module was made; see `Layer`."""

    kind: str
    arguments: dict[str, Value] = {}
    required: int = 0
    layers: dict[str, LayerRecord] = {}
    training: bool = True
    obstacle: str = ""


class TensorValueRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A small tensor's data; see `TensorValue`."""

    shape: tuple[int, ...]
    dtype: str
    data: str


class ValuesRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, eq=False):
    """Data of small tensors by canonical name.

    All are equal: a plan that was made without data (on `meta`) serves the model that has them.
    """

    tensors: dict[str, TensorValueRecord] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ValuesRecord)

    def __hash__(self) -> int:
        return hash(ValuesRecord)


class Program(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A recording; see `Captured`."""

    nodes: tuple[NodeRecord, ...]
    state: tuple[TensorStateRecord, ...]
    calls: tuple[CallRecord, ...]
    colocated: tuple[tuple[str, ...], ...]
    signature: tuple[ParameterRecord, ...]
    arguments: dict[str, StructureRecord]
    output: StructureRecord
    model_class: str
    training: bool
    opaque: dict[str, str] = {}
    dynamic: bool = True
    conditions: tuple[ConditionRecord, ...] = ()
    specialised: tuple[tuple[str, int, int], ...] = ()
    other_mode_error: str = ""
    alternate: Program | None = None
    layers: dict[str, LayerRecord] = {}
    values: ValuesRecord = ValuesRecord()
    volatile: tuple[str, ...] = ()


class Inputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An example call: tensors by shape and type, everything else as it is."""

    args: tuple[Value, ...] = ()
    kwargs: dict[str, Value] = {}
