"""A recording as plain records for the plan document, and back.

A document is data: reading one looks names up in allow-lists, and never imports or calls what it
names. Classes of results become stand-ins that have the name and nothing else.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from partitioner.capture.captured import Captured, ModuleCall, NodeInfo, StateSpec
from partitioner.capture.conditions import FUNCTIONS, Condition, Dimension, spelled
from partitioner.capture.inputs import InputSpec
from partitioner.capture.layers import Layer, TensorValue
from partitioner.capture.record_types import (
    CallRecord,
    ClassRecord,
    ConditionRecord,
    Inputs,
    LayerRecord,
    NodeRecord,
    ParameterRecord,
    Program,
    StructureRecord,
    TensorStateRecord,
    TensorValueRecord,
    ValuesRecord,
)
from partitioner.capture.structure import LEAF, Structure
from partitioner.capture.targets import function_of, is_attribute, is_method, name_of
from partitioner.capture.values import Value, decode, encode
from partitioner.errors import PlanError

_OPS = ("placeholder", "get_attr", "call_module", "call_function", "call_method", "output")
_PARAMETER_KINDS = {kind.name: kind for kind in inspect._ParameterKind}
_BUILTINS: dict[str, type] = {"list": list, "tuple": tuple, "dict": dict}


def records(captured: Captured) -> Program:
    """Write a recording as plain records.

    Raises:
        PlanError: it calls a function, or holds a constant, that a document cannot hold.
    """
    return Program(
        nodes=tuple(_node_record(node, captured) for node in captured.graph.nodes),
        state=tuple(
            TensorStateRecord(state.names, state.role, encode(state.tensor))
            for state in captured.state.values()
        ),
        calls=tuple(_call_record(call) for call in captured.calls),
        colocated=captured.colocated,
        signature=tuple(map(_parameter_record, captured.signature.parameters.values())),
        arguments={
            name: _structure_record(structure)
            for name, structure in captured.input_spec.arguments.items()
        },
        output=_structure_record(captured.output_spec),
        model_class=captured.model_class,
        training=captured.training,
        opaque=dict(captured.opaque),
        dynamic=captured.dynamic,
        conditions=tuple(
            ConditionRecord(_expression_data(condition.expression))
            for condition in captured.conditions
        ),
        specialised=captured.specialised,
        other_mode_error=captured.other_mode_error,
        alternate=None if captured.alternate is None else records(captured.alternate),
        layers={path: _layer_record(layer) for path, layer in captured.layers.items()},
        values=ValuesRecord(
            {
                name: TensorValueRecord(value.shape, value.dtype, value.data)
                for name, value in captured.values.items()
            }
        ),
        volatile=captured.volatile,
    )


def captured_of(program: Program) -> Captured:
    """Read a recording back, with no example call, no constants' data, and stand-ins for classes.

    Raises:
        PlanError: it is no graph, or calls what is on no allow-list; the message names the node.
    """
    graph, nodes = graph_of(program)
    by_name = {node.name: node for node in graph.nodes}
    parameters = [_parameter(record) for record in program.signature]
    try:
        signature = inspect.Signature(parameters)
    except ValueError as error:
        raise PlanError(f"the plan's signature makes no sense: {error}") from None
    placeholders = tuple(str(node.target) for node in graph.nodes if node.op == "placeholder")
    arguments = {name: _structure(record) for name, record in program.arguments.items()}
    return Captured(
        graph=graph,
        nodes=nodes,
        state={record.names[0]: _state(record) for record in program.state if record.names},
        calls=tuple(_call(record, by_name) for record in program.calls),
        colocated=program.colocated,
        signature=signature,
        input_spec=InputSpec(signature, arguments, placeholders),
        output_spec=_structure(program.output),
        model_class=program.model_class,
        training=program.training,
        example=((), {}),
        alternate=None if program.alternate is None else captured_of(program.alternate),
        opaque=program.opaque,
        dynamic=program.dynamic,
        specialised=program.specialised,
        conditions=tuple(_condition(record) for record in program.conditions),
        other_mode_error=program.other_mode_error,
        layers={path: _layer(record) for path, record in program.layers.items()},
        values={
            name: TensorValue(record.shape, record.dtype, record.data)
            for name, record in program.values.tensors.items()
        },
        volatile=program.volatile,
    )


def graph_of(program: Program) -> tuple[fx.Graph, dict[str, NodeInfo]]:
    """Read the graph back, and what the recording knows of each node but `output`.

    Raises:
        PlanError: it is no graph, or calls what is on no allow-list; the message names the node.
    """
    graph = fx.Graph()
    made: dict[str, fx.Node] = {}
    nodes: dict[str, NodeInfo] = {}
    for record in program.nodes:
        try:
            node = _node(record, graph, made)
            if record.op != "output":
                nodes[node.name] = _info(record)
        except (PlanError, KeyError) as error:
            text = (
                f"it uses {error}, which comes later or never"
                if (isinstance(error, KeyError))
                else str(error)
            )
            raise PlanError(f"node {record.name!r} of the plan: {text}") from None
        made[node.name] = node
    if not program.nodes or program.nodes[-1].op != "output":
        raise PlanError("the plan's program does not end with its output")
    return graph, nodes


def inputs_of(captured: Captured) -> Inputs:
    """Write the example call of a recording: enough to record again.

    Raises:
        PlanError: an argument is an object that a document cannot hold.
    """
    args, kwargs = captured.example
    return Inputs(
        tuple(encode(value) for value in args),
        {name: encode(value) for name, value in kwargs.items()},
    )


def example_of(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Make an example call again, with tensors that have no data (`meta`)."""

    def made(data: Value) -> Any:
        return decode(data, tensor=_meta_tensor)

    return tuple(map(made, inputs.args)), {name: made(v) for name, v in inputs.kwargs.items()}


def _meta_tensor(spec: Any) -> Tensor:
    dtype = getattr(torch, spec.dtype)
    return torch.empty(spec.shape, dtype=dtype, device="meta").requires_grad_(spec.requires_grad)


def _node_record(node: fx.Node, captured: Captured) -> NodeRecord:
    target = name_of(node.target) if node.op == "call_function" else str(node.target)  # type: ignore[arg-type]
    info = captured.nodes.get(node.name, NodeInfo("", None))
    return NodeRecord(
        name=node.name,
        op=node.op,
        target=target,
        args=tuple(encode(value) for value in node.args),
        kwargs={name: encode(value) for name, value in node.kwargs.items()},
        module_path=info.module_path,
        value=encode(info.value),
        state=info.state,
        shared=dict(info.shared),
        mutates=info.mutates,
        creates=info.creates,
        grad_enabled=info.grad_enabled,
        autocast=info.autocast,
        checkpointed=info.checkpointed,
        line=info.line,
    )


def _node(record: NodeRecord, graph: fx.Graph, made: Mapping[str, fx.Node]) -> fx.Node:
    if record.op not in _OPS:
        raise PlanError(f"there is no operation {record.op!r}")
    target: Any = record.target
    if record.op == "call_function":
        target = function_of(record.target)
    elif record.op == "call_method" and not is_method(record.target):
        raise PlanError(f"tensors have no method {record.target!r} that a plan may call")
    args = tuple(decode(value, node=made.__getitem__) for value in record.args)
    kwargs = {name: decode(v, node=made.__getitem__) for name, v in record.kwargs.items()}
    if target is getattr and not (len(args) == 2 and is_attribute(str(args[1]))):
        raise PlanError("it reads an attribute that a plan may not read")
    if record.name in made or not record.name.isidentifier():
        raise PlanError("its name is taken, or is no name")
    node = graph.create_node(record.op, target, args, kwargs, record.name)
    if node.name != record.name:
        node.name = record.name
    return node


def _info(record: NodeRecord) -> NodeInfo:
    return NodeInfo(
        module_path=record.module_path,
        value=decode(record.value),
        state=record.state,
        shared=record.shared,
        mutates=record.mutates,
        creates=record.creates,
        grad_enabled=record.grad_enabled,
        autocast=record.autocast,
        checkpointed=record.checkpointed,
        line=record.line,
    )


def _call_record(call: ModuleCall) -> CallRecord:
    if not call.foldable:
        return CallRecord(call.path, call.nodes)
    return CallRecord(
        call.path,
        call.nodes,
        tuple(encode(value) for value in call.args),
        {name: encode(value) for name, value in call.kwargs.items()},
        encode(call.result),
        call.foldable,
    )


def _call(record: CallRecord, nodes: Mapping[str, fx.Node]) -> ModuleCall:
    def read(data: Value) -> Any:
        return decode(data, node=nodes.__getitem__)

    return ModuleCall(
        record.path,
        record.nodes,
        tuple(map(read, record.args)),
        {name: read(value) for name, value in record.kwargs.items()},
        read(record.result),
        record.foldable,
    )


def _state(record: TensorStateRecord) -> StateSpec:
    return StateSpec(decode(record.tensor), record.role, record.names)


def _layer_record(layer: Layer) -> LayerRecord:
    arguments = {} if layer.obstacle else layer.arguments
    return LayerRecord(
        layer.kind,
        {name: encode(value) for name, value in arguments.items()},
        layer.required,
        {name: _layer_record(inner) for name, inner in layer.layers},
        layer.training,
        layer.obstacle,
    )


def _layer(record: LayerRecord) -> Layer:
    return Layer(
        record.kind,
        {name: decode(value) for name, value in record.arguments.items()},
        record.required,
        tuple((name, _layer(inner)) for name, inner in record.layers.items()),
        record.training,
        record.obstacle,
    )


def _parameter_record(parameter: inspect.Parameter) -> ParameterRecord:
    if parameter.default is inspect.Parameter.empty:
        return ParameterRecord(parameter.name, parameter.kind.name, required=True)
    return ParameterRecord(parameter.name, parameter.kind.name, encode(parameter.default))


def _parameter(record: ParameterRecord) -> inspect.Parameter:
    kind = _PARAMETER_KINDS.get(record.kind)
    if kind is None or not record.name.isidentifier():
        raise PlanError(f"the plan's signature has a parameter {record.name!r} of {record.kind!r}")
    default = inspect.Parameter.empty if record.required else decode(record.default)
    return inspect.Parameter(record.name, kind, default=default)


def _structure_record(structure: Structure) -> StructureRecord:
    if structure.kind == "constant":
        try:
            return StructureRecord("constant", value=encode(structure.value))
        except PlanError:
            return StructureRecord("constant", type=_class_record(type(structure.value)))
    return StructureRecord(
        structure.kind,
        None if structure.type is None else _type_record(structure.type),
        tuple(encode(key) for key in structure.keys),
        tuple(map(_structure_record, structure.items)),
    )


def _structure(record: StructureRecord) -> Structure:
    if record.kind == "leaf":
        return LEAF
    made = None if record.type is None else _type(record.type)
    if record.kind == "constant":
        value = decode(record.value) if made is None else made()
        return Structure("constant", value=value)
    if record.kind not in ("list", "tuple", "dict", "named_tuple", "object"):
        raise PlanError(f"the plan holds a structure of unknown kind {record.kind!r}")
    keys = tuple(decode(key) for key in record.keys)
    if len(keys) != len(record.items):
        raise PlanError("the plan holds a structure with more keys than items, or fewer")
    return Structure(record.kind, made, keys, tuple(map(_structure, record.items)))


def _type_record(cls: type) -> str | ClassRecord:
    return cls.__name__ if cls in _BUILTINS.values() else _class_record(cls)


def _class_record(cls: type) -> ClassRecord:
    is_dataclass = dataclasses.is_dataclass(cls)
    fields = [field.name for field in dataclasses.fields(cls) if field.init] if is_dataclass else []
    return ClassRecord(
        name=cls.__qualname__,
        module=cls.__module__,
        base=next((base.__name__ for base in (dict, tuple) if issubclass(cls, base)), ""),
        fields=tuple(fields),
        is_dataclass=is_dataclass,
        prepares=is_dataclass and hasattr(cls, "__post_init__"),
        is_sequence=hasattr(cls, "n_sequence_fields"),
    )


def _type(record: str | ClassRecord) -> type:
    if isinstance(record, str):
        if record not in _BUILTINS:
            raise PlanError(f"the plan holds a structure of unknown type {record!r}")
        return _BUILTINS[record]
    names = [*record.name.split("."), *record.module.split("."), *record.fields]
    if not all(name.isidentifier() or name == "<locals>" for name in names):
        raise PlanError(f"the plan holds a class named {record.module}.{record.name}")
    bases: tuple[type, ...] = (_BUILTINS[record.base],) if record.base in _BUILTINS else ()
    content: dict[str, Any] = {"__module__": record.module, "__qualname__": record.name}
    if record.prepares:
        content["__post_init__"] = lambda self: None
    if record.is_sequence:
        content["n_sequence_fields"] = 0
    name = record.name.rpartition(".")[2]
    if not record.is_dataclass:
        return type(name, bases, content)
    made = dataclasses.make_dataclass(name, record.fields, bases=bases, namespace=content)
    made.__module__, made.__qualname__ = record.module, record.name
    return made


def _expression_data(expression: Any) -> Value:
    if isinstance(expression, Dimension):
        return {"size": [expression.name, expression.dimension]}
    if isinstance(expression, tuple):
        return [expression[0], *map(_expression_data, expression[1:])]
    return encode(expression)


def _condition(record: ConditionRecord) -> Condition:
    expression = _expression(record.expression)
    return Condition(expression, spelled(expression))


def _expression(data: Any) -> Any:
    match data:
        case {"size": [str(name), int(dimension)]}:
            return Dimension(name, dimension)
        case [str(name), *operands] if name in FUNCTIONS:
            return (name, *map(_expression, operands))
        case bool() | int() | float():
            return data
    raise PlanError(f"the plan holds a condition that makes no sense: {data!r:.60}")
