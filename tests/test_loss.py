"""The loss of the user is part of the promise: against plain training steps on virtual GPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.seqnet import SeqNet
from partitioner import Pin, Plan, PlanError, SpecError, plan, virtual_gpus
from partitioner.graph.loss import LOSSES
from partitioner.options import loss_of_plan
from partitioner.verify import verify

SPLIT = [Pin("lin1", "cuda:0"), Pin("lin2", "cuda:1")]
VOCABULARY = 5_000
TOKENS = torch.randint(VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(0))


class Language(nn.Module):
    """Few parameters, many logits, in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.head = nn.Linear(8, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        hidden = self.embedding(tokens)
        return {"hidden": hidden, "logits": self.head(hidden)}


def trained(found: Plan, model: nn.Module, x: Tensor, loss_fn: Callable[[Any, Any], Tensor]) -> Any:
    """The peaks of two steps of the loop in every tutorial, by device."""
    with virtual_gpus(found.virtual_cluster(), limits=False) as gpus:
        placed = found.apply(model)
        optimizer = torch.optim.Adam(placed.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            output = placed(x)
            loss = loss_fn(output, placed.output_devices[0])
            loss.backward()
            optimizer.step()
        return {name: gpus[name].peak_nbytes for name in found.devices}


def promised(found: Plan) -> dict[str, int]:
    return {name: use.peak for name, use in found.memory.items()}


@pytest.mark.parametrize("spelling", ["cross_entropy", "CrossEntropyLoss", nn.CrossEntropyLoss])
def test_a_classifier_takes_what_it_is_promised(spelling: Any) -> None:
    model, x, labels = SeqNet(), torch.randn(64, 784), torch.randint(10, (64,))
    found = plan(
        model, "2x16GiB", x, mode="train", optimizer="adam", constraints=SPLIT, loss=spelling
    )
    assert found.loss is not None
    assert found.loss.name == "cross_entropy"
    assert promised(found) == trained(
        found, model, x, lambda output, device: F.cross_entropy(output, labels.to(device))
    )


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize("name", LOSSES)
def test_targets_of_the_losses_of_pytorch_follow_from_the_output(name: str) -> None:
    model = nn.Sequential(nn.Linear(8, 300), nn.Sigmoid())
    x = torch.randn(50, 8)
    found = plan(model, "1x16GiB", x, mode="train", optimizer="adam", loss=name)
    kind = LOSSES[name][1]
    target = torch.randint(300, (50,)) if kind == "classes" else torch.rand(50, 300)
    step = getattr(F, name)
    with torch.no_grad():
        step(model(x), target)
    assert promised(found) == trained(
        found, model, x, lambda output, device: step(output, target.to(device))
    )


def next_token(output: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """As language models shift their logits."""
    logits = output["logits"][:, :-1].flatten(0, 1)
    return F.cross_entropy(logits, tokens[:, 1:].flatten())


def test_many_logits_are_promised() -> None:
    model, logits = Language(), 2 * 16 * VOCABULARY * 4
    peaks = {}
    for loss in (None, "cross_entropy", next_token):
        targets = None if loss is None else TOKENS
        found = plan(model, "1x16GiB", TOKENS, mode="train", optimizer="adam",
                     loss=loss, targets=targets)  # fmt: skip
        peaks[loss] = promised(found)
    assert peaks["cross_entropy"] == trained(
        found, model, TOKENS, lambda output, device: F.cross_entropy(
            output["logits"].flatten(0, -2), TOKENS.to(device).flatten())
    )  # fmt: skip
    assert peaks[next_token] == trained(
        found, model, TOKENS, lambda output, device: next_token(output, TOKENS.to(device))
    )
    static = found.memory["cuda:0"].parameters + found.memory["cuda:0"].optimizer
    assert peaks["cross_entropy"]["cuda:0"] > static + 3 * logits


def test_weights_of_a_loss_are_where_the_output_is() -> None:
    model, x = SeqNet(), torch.randn(64, 784)
    weighted = nn.CrossEntropyLoss(weight=torch.rand(10))
    found = plan(model, "2x16GiB", x, mode="train", constraints=SPLIT, loss=weighted)
    assert verify(model, found, (x,), loss=weighted).passed
    with pytest.raises(SpecError, match=r"'torch.nn.modules.loss.CrossEntropyLoss'.*with loss="):
        verify(model, found, (x,))


def test_a_plan_keeps_its_loss() -> None:
    model, x, labels = SeqNet(), torch.randn(64, 784), torch.randint(10, (64,))
    asked = {"mode": "train", "constraints": SPLIT, "objective": "memory"}
    found = plan(model, "2x16GiB", x, loss="cross_entropy", targets=labels, **asked)  # type: ignore[arg-type]
    again = Plan.from_json(found.to_json())
    assert again.loss == found.loss
    loss = loss_of_plan(again)
    assert loss.targets is not None
    assert loss.targets[0].shape == labels.shape
    report = verify(model, again, (x,), targets=labels)
    assert report.passed
    assert report.measured_peak_nbytes == report.promised_peak_nbytes
    assert "training with cross_entropy" in str(found)
    without = plan(model, "2x16GiB", x, **asked)  # type: ignore[arg-type]
    assert '"loss"' not in without.to_json()
    assert without.step_seconds < found.step_seconds
    with pytest.raises(PlanError, match="no type 'load'"):
        Plan.from_json(found.to_json().replace('"dtype": "int64", "nbytes": 512', '"dtype": "load", "nbytes": 512'))  # fmt: skip # noqa: E501


def test_the_stages_of_a_pipeline_are_promised_with_their_loss() -> None:
    model, x = SeqNet(), torch.randn(64, 784)
    found = plan(
        model, "2x16GiB", x, mode="train", objective="throughput", micro_batches=2,
        loss="cross_entropy", targets=torch.randint(10, (64,)),
    )  # fmt: skip
    assert found.loss is not None
    assert found.loss.targets is not None
    assert found.loss.targets[0].shape == (32,)
    report = verify(model, found, (x,))
    assert report.passed


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"loss": "cross_entropi"}, "unknown loss 'cross_entropi'; did you mean 'cross_entropy'"),
        ({"loss": 3}, "must be a name, a class or a callable"),
        ({"targets": TOKENS}, "targets without a loss"),
        ({"loss": "mse_loss", "targets": 3}, "targets must be a tensor or several"),
        ({"loss": next_token}, "next_token' takes more than the output"),
        ({"loss": "cross_entropy"}, r"give targets= of int64\[2, 16\] where they are last"),
        ({"loss": "mse_loss", "targets": TOKENS}, r"'mse_loss' does not take .*float32\[2, 16, 50"),
        ({"loss": lambda output: output["logits"]}, "begins from a scalar"),
        ({"loss": "examples.seqnet:nothing"}, "has no 'nothing'"),
    ],
)
def test_a_loss_that_makes_no_sense_is_told(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        plan(Language(), "1x16GiB", TOKENS, mode="train", **asked)


def test_a_name_takes_one_tensor_of_several() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer(x), self.layer(x).sin()

    with pytest.raises(SpecError, match="returns 2 tensors with a gradient, and 'mse_loss' takes"):
        plan(Two(), "1x16GiB", torch.randn(3, 4), mode="train", loss="mse_loss")
