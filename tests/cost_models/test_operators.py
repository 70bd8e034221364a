"""What `observe` sees of PyTorch code, and that its signatures can be run again."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cost_models import CostModelError, is_bandwidth_bound, observe, rebuild

BATCH, INPUTS, OUTPUTS = 8, 64, 32
FLOAT = 4


def test_linear_forward_by_hand() -> None:
    (call,) = observe(nn.Linear(INPUTS, OUTPUTS), (torch.randn(BATCH, INPUTS),)).forward
    assert call.operator == "aten.addmm.default"
    assert call.flops == 2 * BATCH * INPUTS * OUTPUTS
    elements = BATCH * INPUTS + INPUTS * OUTPUTS + OUTPUTS + BATCH * OUTPUTS
    assert call.nbytes == FLOAT * elements
    assert call.dtype == "float32"
    assert call.has_formula


def test_backward_of_a_product_is_twice_its_forward() -> None:
    inputs = torch.randn(BATCH, INPUTS, requires_grad=True)
    seen = observe(nn.Linear(INPUTS, OUTPUTS), (inputs,), backward=True)
    flops = 2 * BATCH * INPUTS * OUTPUTS
    assert sum(call.flops for call in seen.backward) == 2 * flops
    without = observe(nn.Linear(INPUTS, OUTPUTS), (torch.randn(BATCH, INPUTS),), backward=True)
    assert sum(call.flops for call in without.backward) == flops


def test_convolution_by_hand() -> None:
    layer = nn.Conv2d(3, 8, 3, padding=1)
    (call,) = observe(layer, (torch.randn(2, 3, 10, 10),)).forward
    assert call.flops == 2 * (2 * 10 * 10) * 8 * (3 * 3 * 3)
    assert call.nbytes == FLOAT * (2 * 3 * 100 + 8 * 3 * 9 + 8 + 2 * 8 * 100)


def test_views_and_allocations_are_free() -> None:
    def views(x: torch.Tensor) -> torch.Tensor:
        torch.empty(1000)
        return x.view(4, 16).t().unsqueeze(0).expand(3, -1, -1).detach()[0, 2:]

    assert observe(views, (torch.randn(8, 8),)).forward == ()


def test_a_tensor_that_is_read_twice_counts_once() -> None:
    x = torch.randn(100)
    (same,) = observe(torch.mul, (x, x)).forward
    (different,) = observe(torch.mul, (x, torch.randn(100))).forward
    assert (same.nbytes, different.nbytes) == (800, 1200)


def test_an_expanded_tensor_counts_its_real_elements() -> None:
    (call,) = observe(lambda x: x.expand(50, 100) + 1, (torch.randn(1, 100),)).forward
    assert call.nbytes == FLOAT * (100 + 50 * 100)


def test_in_place_reads_and_writes_and_a_fill_only_writes() -> None:
    (added,) = observe(lambda x: x.add_(1), (torch.randn(100),)).forward
    (filled,) = observe(lambda x: x.fill_(1), (torch.randn(100),)).forward
    assert (added.nbytes, filled.nbytes) == (800, 400)


def test_an_embedding_reads_only_the_rows_that_it_takes() -> None:
    table = nn.Embedding(10_000, 16)
    (call,) = observe(table, (torch.zeros(5, dtype=torch.long),)).forward
    assert call.nbytes == 5 * 8 + 2 * FLOAT * 5 * 16


def test_attention_on_the_cpu_is_charged_by_the_formula_of_the_cuda_kernel() -> None:
    query = torch.randn(2, 4, 10, 8)
    seen = observe(F.scaled_dot_product_attention, (query, query, query))
    assert sum(call.flops for call in seen.forward) == 2 * (2 * 2 * 4 * 10 * 10 * 8)
    assert all(call.has_formula for call in seen.forward)


def test_what_has_no_formula_is_said_to_have_none() -> None:
    (call,) = observe(torch.linalg.inv_ex, (torch.eye(4),)).forward[:1]
    assert not call.has_formula
    assert not is_bandwidth_bound(call.operator)
    assert is_bandwidth_bound("aten.add.Tensor")
    assert is_bandwidth_bound("aten.native_layer_norm.default")
    assert not is_bandwidth_bound("no.such.operator")


def test_inputs_and_parameters_are_not_touched() -> None:
    layer = nn.BatchNorm1d(4)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    inputs = torch.randn(6, 4, requires_grad=True)
    observe(layer, (inputs,), backward=True)
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
    assert inputs.grad is None
    assert layer.weight.grad is None


def test_meta_tensors_and_keywords_will_do() -> None:
    layer = nn.Linear(1000, 1000, device="meta")
    x = torch.empty(4, 1000, device="meta")
    (call,) = observe(layer, kwargs={"input": x}).forward
    assert call.flops == 2 * 4 * 1000 * 1000


def test_code_that_fails_is_reported_with_its_name() -> None:
    with pytest.raises(CostModelError, match="'Linear' cannot be observed"):
        observe(nn.Linear(4, 4), (torch.randn(2, 5),))


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (nn.Linear(8, 4), (torch.randn(3, 8, requires_grad=True),)),
        (
            nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
            (torch.randn(2, 2, 6, 6),),
        ),
        (nn.Embedding(50, 8), (torch.randint(0, 50, (4, 6)),)),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (torch.randn(2, 5, 8),)),
        (
            lambda logits, target: F.cross_entropy(logits, target),
            (torch.randn(6, 10, requires_grad=True), torch.randint(0, 10, (6,))),
        ),
        (lambda x: x[:, 1:].masked_fill(x[:, 1:] > 0, float("-inf")).float(), (torch.randn(3, 4),)),
    ],
)
def test_every_call_can_be_rebuilt_from_its_signature_and_runs(function, inputs) -> None:  # type: ignore[no-untyped-def]
    backward = isinstance(function, nn.Module) or inputs[0].requires_grad
    seen = observe(function, inputs, backward=backward)
    assert seen.forward
    for call in (*seen.forward, *seen.backward):
        overload, args, kwargs = rebuild(call.signature, "cpu")
        assert str(overload) == call.operator
        overload(*args, **kwargs)


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "1 + 1",
        "aten.add.Tensor(",
        "aten.no_such.default()",
        "aten.add.Tensor(wat[3])",
        "os.abort()",
    ],
)
def test_what_is_no_signature_is_refused(signature: str) -> None:
    with pytest.raises(CostModelError):
        rebuild(signature, "cpu")


def test_operators_that_trust_their_arguments_are_not_run_on_made_up_ones() -> None:
    bags = observe(nn.EmbeddingBag(8, 4), (torch.zeros(3, 2, dtype=torch.int64),)).forward
    trusting = [call for call in bags if "embedding_bag" in call.operator]
    assert trusting
    for call in trusting:
        with pytest.raises(CostModelError, match="made-up"):
            rebuild(call.signature, "cpu")


class Decides(nn.Module):
    """Takes a branch by a value."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) if x.sum() > 0 else x.tanh()


def test_what_decides_by_values_is_observed_on_real_copies() -> None:
    model, positive = Decides(), torch.ones(2, 4)
    names = [call.operator for call in observe(model, (positive,), backward=True).forward]
    assert names == ["aten.sum.default", "aten.gt.Scalar", "aten.addmm.default"]
    assert observe(model, (-positive,)).forward[-1].operator == "aten.tanh.default"
    assert model.linear.weight.grad is None
    with pytest.raises(CostModelError, match="'Decides' cannot be observed"):
        observe(model.to("meta"), (positive.to("meta"),))
