"""Unmodified training code: true numbers, bit for bit those of the plain CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from partitioner.virtual import virtual_gpus
from tests.virtual.hand_split import MODELS, SeqNet

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def train(
    kind: Callable[[str, str], nn.Module],
    devices: tuple[str, str],
    make: Make = torch.optim.Adam,
    steps: int = 3,
) -> tuple[list[float], dict[str, Tensor]]:
    """The losses, and what the model knows at the end."""
    torch.manual_seed(0)
    model = kind(*devices)
    optimizer = make(model.parameters())
    losses = []
    for _ in range(steps):
        images, digits = torch.randn(8, 784), torch.randint(0, 10, (8,)).to(devices[1])
        optimizer.zero_grad()
        loss = F.nll_loss(model(images), digits)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None and p.grad.device == p.device for p in model.parameters())
    return losses, {name: value.cpu() for name, value in model.state_dict().items()}


def assert_same_training(kind: Callable[[str, str], nn.Module], make: Make) -> None:
    plain_losses, plain_state = train(kind, ("cpu", "cpu"), make)
    with virtual_gpus(2):
        losses, state = train(kind, ("cuda:0", "cuda:1"), make)
    assert losses == plain_losses
    assert all(torch.equal(state[name], value) for name, value in plain_state.items())
    assert len(set(losses)) == len(losses)


@pytest.mark.parametrize("kind", MODELS)
def test_a_hand_split_model_trains_as_on_the_cpu(kind: Callable[[str, str], nn.Module]) -> None:
    assert_same_training(kind, torch.optim.Adam)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, foreach=True),
        lambda p: torch.optim.Adam(p, foreach=False),
        lambda p: torch.optim.Adam(p, foreach=True, amsgrad=True),
        lambda p: torch.optim.Adam(p, fused=True),
        lambda p: torch.optim.Adam(p, fused=False),
        torch.optim.AdamW,
        torch.optim.RMSprop,
        torch.optim.Adagrad,
        lambda p: torch.optim.NAdam(p, foreach=True),
    ],
)
def test_every_optimizer(make: Make) -> None:
    assert_same_training(SeqNet, make)


def test_adam_takes_its_gpu_path() -> None:
    with virtual_gpus(1):
        optimizer = torch.optim.Adam(nn.Linear(2, 2).to("cuda:0").parameters(), capturable=True)
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        assert all(state["step"].is_cuda for state in optimizer.state.values())


def test_clipping_works_on_each_gpu_without_the_cpu() -> None:
    with virtual_gpus(2) as gpus:
        parameters = [nn.Parameter(torch.ones(4, device=device)) for device in ("cuda:0", "cuda:1")]
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 3.0)
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        assert norm.device == torch.device("cuda:0")
        assert norm.item() == pytest.approx(72**0.5)
        assert gpus.transfers == [("cuda:1", "cuda:0", 4), ("cuda:0", "cuda:1", 4)]


def test_an_optimizer_state_survives_saving() -> None:
    with virtual_gpus(2):
        layer = nn.Linear(2, 2).to("cuda:1")
        optimizer = torch.optim.Adam(layer.parameters())
        layer(torch.ones(2, device="cuda:1")).sum().backward()
        optimizer.step()
        saved = copy.deepcopy(optimizer.state_dict())
        other = torch.optim.Adam(layer.to("cuda:0").parameters())
        other.load_state_dict(saved)
        state = other.state[layer.weight]
        assert state["exp_avg"].device == torch.device("cuda:0")
        assert state["step"].device == torch.device("cpu")


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_computes_again_on_the_same_devices(use_reentrant: bool) -> None:
    def gradients(first: str, second: str) -> list[Tensor]:
        torch.manual_seed(0)
        below, above = nn.Linear(4, 4).to(first), nn.Linear(4, 4).to(second)

        def both(inputs: Tensor) -> Tensor:
            hidden = F.dropout(below(inputs.to(first))).to(second)
            result: Tensor = above(hidden) * torch.ones(4, device=hidden.device)
            return result

        inputs = torch.ones(2, 4, device=first, requires_grad=True)
        checkpoint(both, inputs, use_reentrant=use_reentrant).sum().backward()
        found = [inputs.grad, below.weight.grad, above.weight.grad]
        assert [g.device for g in found if g is not None] == [
            torch.device(device) for device in (first, first, second)
        ]
        return [g.cpu() for g in found if g is not None]

    plain = gradients("cpu", "cpu")
    with virtual_gpus(2):
        virtual = gradients("cuda:0", "cuda:1")
    assert all(map(torch.equal, plain, virtual))


def test_hooks_and_own_functions_see_gpus_in_the_backward() -> None:
    seen = []

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, inputs: Tensor) -> Tensor:
            ctx.save_for_backward(inputs)
            return inputs * torch.full_like(inputs, 2.0)

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            (inputs,) = ctx.saved_tensors
            seen.append((inputs.device, gradients[0].device))
            return gradients[0] * torch.full((2,), 2.0, device=inputs.device)

    with virtual_gpus(2):
        gpu = torch.device("cuda:1")
        tensor = torch.ones(2, device=gpu, requires_grad=True)
        tensor.register_hook(lambda gradient: seen.append((gradient.device, gradient.device)))
        Doubled.apply(tensor).sum().backward()
        assert seen == [(gpu, gpu), (gpu, gpu)]
        assert tensor.grad is not None
        assert tensor.grad.tolist() == [2.0, 2.0]
        with torch.autograd.graph.save_on_cpu():
            saved = tensor.exp().sum()
        saved.backward()
        assert tensor.grad.device == gpu


def test_autocast_computes_in_half_precision() -> None:
    before = torch.get_autocast_dtype("cpu")
    with virtual_gpus(1):
        layer = nn.Linear(4, 4).to("cuda:0")
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cuda", init_scale=8.0)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            output = layer(torch.ones(2, 4, device="cuda:0"))
            assert output.dtype == torch.bfloat16
        assert layer(torch.ones(2, 4, device="cuda:0")).dtype == torch.float32
        scaler.scale(output.float().sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == 8.0
        with torch.autocast("cuda"):
            assert torch.mm(*[torch.ones(2, 2, device="cuda:0")] * 2).dtype == torch.float16
    assert torch.get_autocast_dtype("cpu") == before
    assert not torch.is_autocast_enabled("cpu")


def test_a_compiled_module_runs_as_written() -> None:
    with virtual_gpus(2):
        layer = torch.compile(nn.Linear(2, 2).to("cuda:1"))
        assert layer(torch.ones(2, device="cuda:1")).device == torch.device("cuda:1")


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_function_transforms_pass_through_moves() -> None:
    def cubes(inputs: Tensor) -> Tensor:
        return (inputs.to("cuda:1") ** 3).to("cuda:0")

    with virtual_gpus(2):
        inputs = torch.tensor([1.0, 2.0], device="cuda:0")
        gradient = torch.func.grad(lambda x: cubes(x).sum())(inputs)
        assert gradient.device == inputs.device
        assert gradient.tolist() == [3.0, 12.0]
        assert torch.func.jacrev(cubes)(inputs).tolist() == [[3.0, 0.0], [0.0, 12.0]]
        tangent = torch.func.jvp(cubes, (inputs,), (torch.ones_like(inputs),))[1]
        assert tangent.tolist() == [3.0, 12.0]
        assert torch.vmap(cubes)(inputs[:, None]).device == inputs.device
