"""What a placed module is, beside its numbers."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from partitioner.capture import capture
from partitioner.emit import PlacedModule, place, placement_of_state
from partitioner.errors import PlanError
from partitioner.virtual import virtual_gpus
from tests.emit.side_by_side import assert_close, blocks, captured, leaves
from tests.zoo import ZOO, SeqNet


def split(name: str, *cuts: str) -> PlacedModule:
    return place(ZOO[name].build(), captured(name), blocks(captured(name), cuts))


def on_cpu(name: str, *cuts: str) -> PlacedModule:
    """Split, but over spellings of the CPU: for what needs no devices."""
    placement = {
        node: device.replace("cuda", "cpu") for node, device in blocks(captured(name), cuts).items()
    }
    return place(ZOO[name].build(), captured(name), placement)


def test_it_is_still_the_original_class_with_its_signature_and_methods() -> None:
    placed = on_cpu("seqnet", "lin2")
    assert isinstance(placed, PlacedModule)
    assert isinstance(placed, SeqNet)
    assert inspect.signature(placed.forward) == inspect.signature(SeqNet().forward)
    assert list(placed.state_dict()) == list(SeqNet().state_dict())
    assert placed.plan is None


def test_the_code_reads_like_the_hand_split_of_the_tutorial() -> None:
    with virtual_gpus(2):
        placed = split("seqnet", "lin2")
    assert [line.strip() for line in placed.code.splitlines()][-6:] == [
        "# cuda:0",
        "x = x.view(x.size(0), -1)",
        "x = self.lin1(x.to('cuda:0'))",
        "x = F.log_softmax(x, dim=1)",
        "# cuda:1",
        "return self.lin2(x.to('cuda:1'))",
    ]


def test_everything_on_one_device_calls_the_original_forward() -> None:
    calls: list[torch.device] = []

    class Watched(SeqNet):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(x.device)
            return super().forward(x)

    model = Watched()
    case = ZOO["seqnet"]
    recording = capture(model, case.args(), training=True)
    with virtual_gpus(2):
        placed = place(model, recording, dict.fromkeys(recording.nodes, "cuda:1"))
        calls.clear()
        placed(*case.args())
        assert calls == [torch.device("cuda:1")]
        assert placed.output_devices == ("cuda:1",)


def test_a_submodule_on_one_device_stays_one_call_with_its_hooks() -> None:
    recording = captured("residual_cnn")
    first_of_layer2 = next(
        n for n, i in recording.nodes.items() if i.module_path.startswith("layer2")
    )
    with virtual_gpus(2):
        placed = split("residual_cnn", first_of_layer2)
        assert "self.layer1(" in placed.code
        assert "self.layer2(" in placed.code
        seen: list[str] = []
        placed.get_submodule("layer1").register_forward_hook(lambda *_: seen.append("layer1"))
        placed(*ZOO["residual_cnn"].args())
        assert seen == ["layer1"]


def test_parameters_live_where_their_nodes_are_and_the_original_stays() -> None:
    model = ZOO["seqnet"].build()
    recording = captured("seqnet")
    placement = blocks(recording, ["lin2"])
    with virtual_gpus(2) as gpus:
        placed = place(model, recording, placement)
        homes = placement_of_state(recording, placement)
        assert {n: str(p.device) for n, p in placed.named_parameters()} == homes
        assert homes["lin1.weight"] == "cuda:0"
        assert homes["lin2.bias"] == "cuda:1"
        assert {str(p.device) for p in model.parameters()} == {"cpu"}
        assert gpus["cuda:0"].peak_nbytes < 1.01 * 4 * (784 * 200 + 200) + 2048


def test_state_that_no_node_uses_goes_to_the_first_device() -> None:
    class Unused(SeqNet):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Linear(3, 3)

    model = Unused()
    recording = capture(model, ZOO["seqnet"].args(), training=True)
    placement = {name: "cuda:1" if name == "lin2" else "cuda:0" for name in recording.nodes}
    assert placement_of_state(recording, placement)["spare.weight"] == "cuda:0"


def test_ties_and_frozen_parameters_survive() -> None:
    model = ZOO["language_model"].build()
    model.get_parameter("norm.weight").requires_grad_(False)
    recording = captured("language_model")
    with virtual_gpus(2):
        placed = place(model, recording, blocks(recording, ["norm"]))
        assert placed.get_parameter("head.weight") is placed.get_parameter("wte.weight")
        assert not placed.get_parameter("norm.weight").requires_grad
        assert len(list(placed.parameters())) == len(list(model.parameters()))


def test_tied_weights_on_two_devices_train_like_the_original() -> None:
    case, recording = ZOO["language_model"], captured("language_model")
    original = case.build().eval()
    with virtual_gpus(2):
        placed = place(case.build(), recording, blocks(recording, ["norm"])).eval()
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (original, placed)]
        for _ in range(3):
            losses = [m(*case.args()).pow(2).mean() for m in (original, placed)]
            assert_close(losses[0].detach(), losses[1].detach().to("cpu"))
            for optimizer, loss in zip(optimizers, losses, strict=True):
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


@pytest.mark.parametrize("name", ["hf_gpt2_no_cache", "tied", "auxiliary_head", "counter", "mlp"])
def test_deep_copies_and_pickles_compute_the_same(name: str) -> None:
    case, recording = ZOO[name], captured(name)
    names = list(recording.nodes)
    placed = on_cpu(name, names[len(names) // 2]).eval()
    expected = leaves(placed(*case.args(), **case.kwargs()))
    file = io.BytesIO()
    torch.save(placed, file)
    file.seek(0)
    for other in (
        copy.deepcopy(placed),
        pickle.loads(pickle.dumps(placed)),
        torch.load(file, weights_only=False),
    ):
        assert isinstance(other, PlacedModule)
        assert other.code == placed.code
        assert len(other.graph.nodes) == len(placed.graph.nodes)
        for left, right in zip(expected, leaves(other(*case.args(), **case.kwargs())), strict=True):
            assert torch.equal(left, right)
    assert all(
        left is not right
        for left, right in zip(placed.parameters(), copy.deepcopy(placed).parameters(), strict=True)
    )


def test_a_long_graph_can_be_pickled() -> None:
    class Deep(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(1200):
                x = x + 1
            return x

    model = Deep()
    recording = capture(model, (torch.zeros(3),), training=True)
    names = list(recording.nodes)
    placement = {name: f"cpu:{int(i > 600)}" for i, name in enumerate(names)}
    placed = place(model, recording, placement)
    copied = copy.deepcopy(placed)
    assert torch.equal(copied(torch.zeros(3)), torch.full((3,), 1200.0))
    assert len(pickle.dumps(placed._placing)) > 0


def test_state_dicts_go_both_ways_also_by_assignment() -> None:
    model = ZOO["seqnet"].build()
    with virtual_gpus(2):
        placed = split("seqnet", "lin2")
        with torch.no_grad():
            placed.get_parameter("lin2.bias").add_(1)
        model.load_state_dict({k: v.to("cpu") for k, v in placed.state_dict().items()})
        other = split("seqnet", "lin2")
        other.load_state_dict(model.state_dict())
        assert str(other.get_parameter("lin2.bias").device) == "cuda:1"
        assert torch.equal(other.get_parameter("lin2.bias").to("cpu"), model.lin2.bias)
        other.load_state_dict(placed.state_dict(), assign=True)
        assert other(*ZOO["seqnet"].args()).shape == (64, 10)


def test_the_output_may_be_of_any_class() -> None:
    placed = on_cpu("dataclass_output", "second")
    result = placed(*ZOO["dataclass_output"].args())
    assert type(result).__name__ == "Prediction"
    assert result.note == "ok"
    assert placed.output_devices == ("cpu:1", "cpu:0", "cpu:1")


def test_a_model_with_attributes_of_our_names_keeps_them() -> None:
    class Named(SeqNet):
        plan = "mine"

        def __init__(self) -> None:
            super().__init__()
            self.graph = nn.Linear(10, 10)
            self.code = 7

        def forward(self, x: Tensor) -> Tensor:
            return self.graph(super().forward(x)) * self.code

    model = Named()
    recording = capture(model, ZOO["seqnet"].args(), training=True)
    placement = {name: "cpu:1" if name == "graph" else "cpu:0" for name in recording.nodes}
    placed = place(model, recording, placement)
    assert placed.plan == "mine"
    assert placed.code == 7
    assert isinstance(placed.graph, nn.Linear)
    x = ZOO["seqnet"].args()[0]
    assert torch.equal(placed(x), model(x))


def test_torch_compile_takes_it_whole() -> None:
    class Loose(SeqNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.zeros(10)

    model = Loose().eval()
    recording = capture(model, ZOO["seqnet"].args(), training=False)
    placed = place(model, recording, dict.fromkeys(recording.nodes, "cpu"))
    assert "self.lin2(" in placed.code
    x = ZOO["seqnet"].args()[0]
    compiled: Any = torch.compile(placed, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))


def test_train_and_eval_may_return_different_things() -> None:
    with virtual_gpus(2):
        placed = split("auxiliary_head", "head")
        placed.train()
        assert len(placed(*ZOO["auxiliary_head"].args())) == 2
        assert len(placed.output_devices) == 2
        placed.eval()
        assert isinstance(placed(*ZOO["auxiliary_head"].args()), Tensor)
        assert len(placed.output_devices) == 1


def test_autograd_and_autocast_are_as_before_after_a_failure_inside_a_region() -> None:
    placed = on_cpu("no_grad_part", "head")
    with pytest.raises(RuntimeError):
        placed(torch.randn(4, 16, dtype=torch.float64))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"repeats": 3}, "repeats"),
        ({"mask": torch.ones(16)}, "mask"),
        ({"flip": False}, "flip"),
        ({"style": "sum"}, "style"),
        ({"shift": 0.5}, "shift"),
        ({"x": None}, "x"),
    ],
)
def test_a_call_that_differs_is_refused_by_the_name_of_its_argument(
    change: dict[str, Any], argument: str
) -> None:
    placed = on_cpu("mixed_inputs", "mean")
    call = {"x": torch.randn(4, 16), "mask": None, "repeats": 2, "flip": True, "style": "mean"}
    assert placed(**call).shape == (4,)
    with pytest.raises(PlanError, match=re.escape(f"'{argument}' (needed: ")) as error:
        placed(**{**call, **change})
    others = [name for name in (*call, "shift") if name != argument]
    assert not any(f"'{name}' (needed" in str(error.value) for name in others)


def test_parameters_without_data_are_refused() -> None:
    with torch.device("meta"):
        model = SeqNet()
    recording = capture(model, ZOO["seqnet"].args(), training=True)
    with pytest.raises(PlanError, match=r"'lin1.weight'.* no data.*materialise"):
        place(model, recording, dict.fromkeys(recording.nodes, "cuda:0"))
