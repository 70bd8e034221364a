"""What a recording says: names, state, aliases, devices, modes."""

from __future__ import annotations

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partitioner.capture import Captured, TensorSpec, capture
from tests.capture.side_by_side import assert_same, captured_case
from tests.zoo import ZOO


def targets(captured: Captured) -> dict[str, object]:
    return {node.name: node.target for node in captured.graph.nodes}


def find(captured: Captured, target: object) -> list[str]:
    return [name for name, found in targets(captured).items() if found == target]


def test_seqnet_reads_like_its_source() -> None:
    captured = captured_case("seqnet")
    names = [node.name for node in captured.graph.nodes]
    assert names == ["x", "size", "view", "lin1", "log_softmax", "lin2", "output"]
    assert "torch.nn.functional.log_softmax(lin1, dim = 1)" in (
        captured.graph.python_code("self").src
    )
    lin1 = captured.nodes["lin1"]
    assert lin1.value == TensorSpec((64, 200), "float32", 64 * 200 * 4, requires_grad=True)
    assert lin1.state == ("lin1.weight", "lin1.bias")
    assert lin1.module_path == "lin1"
    assert lin1.line == "zoo.py:118: x = self.lin1(x)" or lin1.line.endswith("x = self.lin1(x)")
    assert captured.nodes["size"].value is None
    assert captured.state["lin1.weight"].role == "parameter"
    assert captured.alternate is None
    assert captured.model_class.endswith("zoo.SeqNet")


def test_names_follow_the_module_tree() -> None:
    names = list(captured_case("hf_gpt2").nodes)
    assert "transformer_h_0_attn_c_attn" in names
    assert "lm_head" in names


def test_recording_twice_gives_the_same() -> None:
    for name in ("language_model", "hf_llama"):
        case = ZOO[name]
        again = capture(case.build(), case.args(), case.kwargs(), training=True)
        assert str(again.graph) == str(captured_case(name).graph)
        assert again.nodes == captured_case(name).nodes
        assert again.calls == again.calls


@pytest.mark.parametrize("name", ZOO)
def test_no_device_is_left_in_the_graph(name: str) -> None:
    for node in captured_case(name).graph.nodes:
        assert "device" not in node.kwargs
        assert not any(isinstance(value, torch.device) for value in node.args)


@pytest.mark.parametrize("name", ZOO)
def test_every_node_is_described_and_every_module_call_is_one_run(name: str) -> None:
    captured = captured_case(name)
    order = [node.name for node in captured.graph.nodes if node.op != "output"]
    assert list(captured.nodes) == order
    for call in captured.calls:
        if call.nodes:
            start = order.index(call.nodes[0])
            assert tuple(order[start : start + len(call.nodes)]) == call.nodes
    for group in captured.colocated:
        assert len(group) > 1
        assert set(group) <= set(order)


@pytest.mark.parametrize("name", ZOO)
def test_each_tensor_of_the_model_lives_at_one_node(name: str) -> None:
    captured = captured_case(name)
    homes: dict[str, str] = {}
    for node, info in captured.nodes.items():
        for state in info.state:
            assert homes.setdefault(state, node) == node
        for owner in info.shared.values():
            assert captured.nodes[owner].state


def test_tied_weights_get_a_node_of_their_own() -> None:
    captured = captured_case("tied")
    [weight] = find(captured, "embedding.weight")
    assert captured.state["embedding.weight"].names == ("embedding.weight", "decoder.weight")
    assert captured.nodes["embedding"].shared == {"weight": weight}
    assert captured.nodes["decoder"].shared == {"weight": weight}
    assert captured.nodes["decoder"].state == ()
    [mix] = find(captured, "mix.weight")
    assert captured.nodes["mix"].shared == {"weight": mix}
    assert captured.nodes["mix"].state == ("mix.bias",)


def test_a_module_called_twice_keeps_its_buffers_together() -> None:
    captured = captured_case("called_twice")
    [mean] = find(captured, "norm.running_mean")
    group = next(group for group in captured.colocated if mean in group)
    assert {"norm", "norm_1"} <= set(group)
    assert captured.nodes["shared"].shared.keys() == {"weight", "bias"}


def test_in_place_changes_are_told() -> None:
    captured = captured_case("in_place")
    [relu] = find(captured, "relu_")
    assert captured.nodes[relu].mutates == ("first",)
    [mul] = find(captured, "mul_")
    base = captured.nodes[mul].mutates
    assert set(find(captured, operator.setitem)) & set(base)
    assert any({"first", relu} <= set(group) for group in captured.colocated)
    user = next(node for node in captured.graph.nodes if node.op == "call_function")
    assert user.args[0].name == relu


def test_structures_are_taken_apart() -> None:
    captured = captured_case("pieces")
    [chunk] = find(captured, "chunk")
    value = captured.nodes[chunk].value
    assert isinstance(value, tuple)
    assert [spec.shape for spec in value] == [(4, 7, 8)] * 3
    group = next(group for group in captured.colocated if chunk in group)
    assert len(group) == 4


def test_factories_are_marked() -> None:
    captured = captured_case("factories")
    created = {name for name, info in captured.nodes.items() if info.creates}
    assert {str(targets(captured)[name].__name__) for name in created} == {  # type: ignore[attr-defined]
        "zeros",
        "tensor",
        "arange",
        "randn",
        "linspace",
    }
    assert not captured.calls[0].foldable


def test_foldable_modules() -> None:
    captured = captured_case("language_model_made_mask")
    foldable = {call.path: call.foldable for call in captured.calls}
    assert foldable["blocks.0.attention"]
    assert foldable["blocks.0"]
    call = next(call for call in captured.calls if call.path == "blocks.0.attention")
    assert [node.name for node in call.args] == ["blocks_0_norm1"]
    assert call.result.name == "blocks_0_attention_residual_dropout"


def test_grad_mode_and_autocast_are_regions() -> None:
    nodes = captured_case("no_grad_part").nodes
    assert not nodes["frozen"].grad_enabled
    assert not nodes["tanh"].grad_enabled
    assert nodes["head"].grad_enabled
    nodes = captured_case("autocast").nodes
    assert nodes["first"].autocast == ("cpu", "bfloat16", True, True)
    assert nodes["second"].autocast is None


def test_a_region_of_the_caller_is_left_outside() -> None:
    case = ZOO["mlp"]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        captured = capture(case.build(), case.args(), training=True)
    assert captured.nodes == captured_case("mlp").nodes
    with torch.inference_mode():
        assert capture(case.build(), case.args(), training=True).nodes == captured.nodes
    with torch.device("meta"):
        assert capture(case.build(), case.args(), training=True).nodes == captured.nodes


def test_a_flag_follows_the_mode() -> None:
    captured = captured_case("functional_dropout")
    assert captured.alternate is None
    [flag] = find(captured, "training")
    assert captured.nodes[flag].value is None
    dropouts = find(captured, F.dropout)
    assert len(dropouts) == 2
    for node in captured.graph.nodes:
        if node.name in dropouts:
            assert flag in [source.name for source in node.all_input_nodes]


def test_a_number_follows_the_mode() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(16, 48)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).chunk(3, -1)
            p = 0.1 if self.training else 0.0
            return F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=not self.training)

    args = (torch.randn(2, 5, 16),)
    captured = capture(Attention(), args, training=True)
    assert captured.alternate is None

    def build() -> nn.Module:
        torch.manual_seed(0)
        return Attention()

    for training in (True, False):
        assert_same(captured, build, args, {}, training=training)


def test_other_ways_in_evaluation_are_another_graph() -> None:
    captured = captured_case("auxiliary_head")
    assert captured.alternate is not None
    assert not captured.alternate.training
    assert "auxiliary" in captured.nodes
    assert "auxiliary" not in captured.alternate.nodes


def test_a_mode_that_cannot_run_is_told() -> None:
    class TrainOnly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                raise RuntimeError("not for evaluation")
            return self.layer(x)

    captured = capture(TrainOnly(), (torch.zeros(2, 4),), training=True)
    assert captured.alternate is None
    assert "not for evaluation" in captured.other_mode_error


def test_frozen_parts_stay_frozen() -> None:
    captured = captured_case("frozen_part")
    assert captured.alternate is None
    assert not find(captured, "training")


def test_checkpointed_modules_stay_whole() -> None:
    captured = captured_case("checkpointed")
    leaves = [name for name, info in captured.nodes.items() if info.checkpointed]
    assert leaves == ["blocks_0", "blocks_1", "blocks_2"]
    assert set(captured.opaque) == {"blocks.0", "blocks.1", "blocks.2"}


def test_a_module_that_decides_by_its_data_is_one_node() -> None:
    captured = captured_case("data_dependent_part")
    assert [node.op for node in captured.graph.nodes if node.name == "gate"] == ["call_module"]
    assert "decides by its data (zoo.py:" in captured.opaque["gate"]
    assert captured.nodes["gate"].state == (
        "gate.positive.weight",
        "gate.positive.bias",
        "gate.negative.weight",
        "gate.negative.bias",
    )


def test_results_are_rebuilt_in_their_classes() -> None:
    captured = captured_case("dataclass_output")
    [output] = [node for node in captured.graph.nodes if node.op == "output"]
    assert list(output.args[0]) == ["logits", "hidden", "note"]
    made = captured.output_spec.rebuild({"logits": 1, "hidden": [2, 3], "note": None})
    assert type(made).__name__ == "Prediction"
    assert made.hidden == [2, 3]
    assert made.note == "ok" or made.note is None
    assert not captured.output_spec.is_plain
    assert captured_case("seqnet").output_spec.is_plain


def test_inputs_are_named_after_arguments() -> None:
    assert captured_case("dict_input").input_spec.placeholders == (
        "batch_images",
        "batch_texts_words",
    )
    assert captured_case("list_input").input_spec.placeholders == (
        "pyramid_0",
        "pyramid_1_0",
        "pyramid_1_1",
        "pair_0",
        "pair_1",
    )


def test_one_tensor_for_two_inputs_is_no_alias() -> None:
    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.layer(a) + 2 * b

    x = torch.zeros(2, 4)
    captured = capture(Adds(), (x, x), training=True)
    placeholders = [node for node in captured.graph.nodes if node.op == "placeholder"]
    assert [len(node.users) for node in placeholders] == [1, 1]
