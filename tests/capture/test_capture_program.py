"""Recordings as records: there and back, and nothing foreign gets in."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from partitioner.capture import (
    Inputs,
    Program,
    capture,
    captured_of,
    example_of,
    graph_of,
    inputs_of,
    records,
)
from partitioner.capture.targets import function_of, name_of
from partitioner.errors import PlanError
from tests.capture.side_by_side import captured_case
from tests.zoo import ZOO


@pytest.mark.parametrize("name", ZOO)
def test_there_and_back(name: str) -> None:
    captured = captured_case(name)
    program = records(captured)
    text = msgspec.json.encode(program)
    read = msgspec.json.decode(text, type=Program)
    assert read == program
    assert msgspec.json.encode(read) == text
    graph, nodes = graph_of(read)
    assert str(graph) == str(captured.graph)
    assert nodes == captured.nodes
    back = captured_of(read)
    assert records(back) == program
    assert back.state == captured.state
    assert back.colocated == captured.colocated
    assert back.conditions == captured.conditions
    assert [str(p) for p in back.signature.parameters] == [
        str(p) for p in captured.signature.parameters
    ]


@pytest.mark.parametrize("name", ["seqnet", "dict_input", "mixed_inputs", "list_input", "hf_bert"])
def test_the_inputs_are_enough_to_record_again(name: str) -> None:
    captured = captured_case(name)
    text = msgspec.json.encode(inputs_of(captured))
    args, kwargs = example_of(msgspec.json.decode(text, type=Inputs))
    again = capture(ZOO[name].build(), args, kwargs, training=True)
    assert records(again) == records(captured)


def test_lines_of_the_users_code_do_not_tell_programs_apart() -> None:
    program = records(captured_case("seqnet"))
    moved = msgspec.structs.replace(
        program,
        nodes=tuple(msgspec.structs.replace(node, line="elsewhere.py:1") for node in program.nodes),
    )
    assert moved == program


def test_an_object_among_the_inputs_cannot_be_written_down() -> None:
    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor, config: object) -> torch.Tensor:
            return self.layer(x)

    captured = capture(Takes(), (torch.zeros(3, 2), object()), training=True)
    with pytest.raises(PlanError, match="cannot hold a object"):
        inputs_of(captured)


def broken(**changes: Any) -> Program:
    """SeqNet's program, with some fields of its `log_softmax` changed."""
    program = records(captured_case("seqnet"))
    nodes = tuple(
        msgspec.structs.replace(node, **changes) if node.name == "log_softmax" else node
        for node in program.nodes
    )
    return msgspec.structs.replace(program, nodes=nodes)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "builtins.exec",
        "builtins.__import__",
        "torch.load",
        "torch.save",
        "torch.hub.load",
        "torch.from_file",
        "torch.ops.aten.add.Tensor",
        "torch.nn.functional.__builtins__",
        "operator.methodcaller",
        "operator.attrgetter",
        "subprocess.run",
        "log_softmax",
        "",
    ],
)
def test_foreign_functions_are_refused(target: str) -> None:
    with pytest.raises(PlanError, match=r"node 'log_softmax'.*no known function"):
        graph_of(broken(target=target))


@pytest.mark.parametrize(
    "method",
    ["__reduce_ex__", "apply_", "map_", "register_hook", "backward", "nothing", "__class__"],
)
def test_foreign_methods_are_refused(method: str) -> None:
    with pytest.raises(PlanError, match="no method"):
        graph_of(broken(op="call_method", target=method))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"op": "import"}, "no operation 'import'"),
        ({"args": ({"node": "lin3"},)}, "'lin3', which comes later or never"),
        ({"args": ({"node": "lin2"},)}, "'lin2', which comes later or never"),
        ({"args": ({"code": "1"},)}, "cannot hold the value"),
        ({"args": ({"dtype": "load"},)}, "cannot hold the value"),
        ({"args": ({"slice": [1]},)}, "cannot hold the value"),
        ({"args": ({"real": "1 + 1"},)}, "cannot hold the value"),
        ({"value": {"tensor": {"shape": [-1], "dtype": "float32"}}}, "cannot hold the tensor"),
        ({"value": {"tensor": {"shape": [1], "dtype": "nn"}}}, "cannot hold the tensor"),
        ({"name": "lin1"}, "its name is taken"),
        ({"name": "a b"}, "is no name"),
        ({"target": "builtins.getattr", "args": ({"node": "lin1"}, "__class__")}, "may not read"),
    ],
)
def test_damaged_nodes_are_told(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(PlanError, match="of the plan") as caught:
        graph_of(broken(**changes))
    assert what in str(caught.value)


def test_damaged_programs_are_told() -> None:
    program = records(captured_case("seqnet"))

    def changed(**changes: Any) -> None:
        captured_of(msgspec.structs.replace(program, **changes))

    with pytest.raises(PlanError, match="does not end with its output"):
        changed(nodes=program.nodes[:-1])
    with pytest.raises(PlanError, match="unknown kind 'set'"):
        changed(output=msgspec.structs.replace(program.output, kind="set"))
    [condition, *_] = program.conditions
    with pytest.raises(PlanError, match="makes no sense"):
        changed(conditions=(msgspec.structs.replace(condition, expression=["eval", 1]),))
    [parameter, *_] = program.signature
    with pytest.raises(PlanError, match="signature"):
        changed(signature=(msgspec.structs.replace(parameter, kind="ANY"),))


def test_a_foreign_call_cannot_be_written_down() -> None:
    captured = capture(nn.Sequential(nn.Linear(2, 2)), (torch.zeros(3, 2),), training=True)
    node = next(node for node in captured.graph.nodes if node.op == "call_module")
    node.op, node.target = "call_function", print
    with pytest.raises(PlanError, match="cannot hold a call of print"):
        records(captured)


def test_products_that_mixtures_of_experts_call_are_known():
    """Mixtral calls `torch._grouped_mm`, whose name begins with an underscore."""
    assert function_of(name_of(torch._grouped_mm)) is torch._grouped_mm
