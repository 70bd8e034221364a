"""A placed module among PyTorch's own tools."""

from __future__ import annotations

import contextlib
import copy
import functools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as distributed
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from partitioner.capture import capture
from partitioner.emit import PlacedModule, place
from partitioner.virtual import virtual_gpus
from tests.emit.side_by_side import blocks, captured
from tests.emit.test_emit_placed_module import on_cpu, split
from tests.forks import FORKS
from tests.zoo import ZOO, SeqNet

X, LABELS = ZOO["seqnet"].args()[0], torch.arange(64) % 10


def halved(name: str) -> PlacedModule:
    """Split in the middle over spellings of the CPU."""
    names = list(captured(name).nodes)
    return on_cpu(name, names[len(names) // 2])


def loss_of(module: nn.Module) -> Tensor:
    output = module(X)
    return nn.functional.cross_entropy(output, LABELS.to(output.device))


def train(
    module: nn.Module,
    make: Callable[..., torch.optim.Optimizer],
    clip: Callable[[Any], Any] = lambda parameters: None,
) -> torch.optim.Optimizer:
    optimizer = make(module.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(module).backward()
        clip(module.parameters())
        optimizer.step()
    return optimizer


def assert_same_parameters(left: nn.Module, right: nn.Module) -> None:
    for (name, one), other in zip(left.named_parameters(), right.parameters(), strict=True):
        torch.testing.assert_close(
            one.to("cpu"), other.to("cpu"), msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("way", [{"fused": True}, {"foreach": True}, {"foreach": False}])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_optimizers_step_as_on_the_original(optimizer: Any, way: dict[str, bool]) -> None:
    original = ZOO["seqnet"].build()
    train(original, lambda parameters: optimizer(parameters, lr=0.01, **way))
    with virtual_gpus(2):
        placed = split("seqnet", "lin2")
        train(placed, lambda parameters: optimizer(parameters, lr=0.01, **way))
        assert_same_parameters(placed, original)


@pytest.mark.parametrize(
    "clip",
    [
        lambda parameters: nn.utils.clip_grad_norm_(parameters, 0.05),
        lambda parameters: nn.utils.clip_grad_value_(parameters, 0.001),
    ],
    ids=["norm", "value"],
)
def test_gradients_are_clipped_over_all_devices(clip: Callable[[Any], Any]) -> None:
    original = ZOO["seqnet"].build()
    train(original, lambda parameters: torch.optim.SGD(parameters, lr=0.1), clip)
    with virtual_gpus(2):
        placed = split("seqnet", "lin2")
        train(placed, lambda parameters: torch.optim.SGD(parameters, lr=0.1), clip)
        assert_same_parameters(placed, original)


def test_scaled_gradients_under_autocast_are_those_of_the_original() -> None:
    def run(module: nn.Module, device: str) -> float:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler(device, init_scale=256.0)
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = loss_of(module)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        return scaler.get_scale()

    original = ZOO["seqnet"].build()
    expected = run(original, "cpu")
    with virtual_gpus(2):
        placed = split("seqnet", "lin2")
        assert run(placed, "cuda") == expected
        assert_same_parameters(placed, original)


@pytest.mark.parametrize("name", ["seqnet", "residual_cnn", "language_model", "mixed_inputs"])
def test_compiling_breaks_no_more_often_than_for_the_original(name: str) -> None:
    case = ZOO[name]
    breaks = []
    for module in (case.build().eval(), halved(name).eval()):
        torch._dynamo.reset()
        args, kwargs = case.args(), case.kwargs()
        explained = torch._dynamo.explain(module)(*args, **kwargs)
        breaks.append(explained.graph_break_count)
    assert breaks[1] <= breaks[0]


def test_compiled_it_computes_and_trains_the_same() -> None:
    original, placed = ZOO["seqnet"].build(), halved("seqnet")
    torch._dynamo.reset()
    compiled: Any = torch.compile(placed, backend="aot_eager", fullgraph=True)
    for module in (original, compiled):
        train(module, lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    assert_same_parameters(placed, original)


def test_hooks_of_modules_that_are_called_whole_run_forward_and_backward() -> None:
    with virtual_gpus(2):
        placed = split("seqnet", "lin2")
        seen: list[str] = []

        def noted(name: str, tensors: Any) -> None:
            seen.append(f"{name} {next(iter(tensors)).device}")

        for name in ("lin1", "lin2"):
            layer = placed.get_submodule(name)
            layer.register_forward_pre_hook(lambda _, args, n=name: noted(f"into {n}", args))
            layer.register_forward_hook(lambda _, args, out, n=name: noted(f"out of {n}", [out]))
            layer.register_full_backward_hook(lambda _, i, o, n=name: noted(f"back of {n}", o))
        placed.register_forward_hook(lambda _, args, out: noted("out", [out]))
        placed(X.clone().requires_grad_()).sum().backward()
        assert seen == [
            "into lin1 cuda:0",
            "out of lin1 cuda:0",
            "into lin2 cuda:1",
            "out of lin2 cuda:1",
            "out cuda:1",
            "back of lin2 cuda:1",
            "back of lin1 cuda:0",
        ]


def test_a_hook_of_the_original_comes_along() -> None:
    model = SeqNet()
    seen: list[str] = []
    model.lin2.register_forward_hook(lambda *_: seen.append("lin2"))
    recording = capture(model, (X,), training=True)
    placed = place(model, recording, dict.fromkeys(recording.nodes, "cpu"))
    seen.clear()
    placed(X)
    assert seen == ["lin2"]


class Blocks(nn.Module):
    """Two blocks; `boxed` hands the second its argument in an object of its own.

    Args:
        boxed: whether it does.
    """

    def __init__(self, *, boxed: bool = False) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
        self.second = Unboxing()
        self.boxed = boxed

    def forward(self, x: Tensor) -> Any:
        x = self.first(x)
        return self.second(SimpleNamespace(x=x) if self.boxed else x)


class Unboxing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Any) -> Tensor:
        return self.two(self.one(getattr(x, "x", x)))


def test_a_module_with_hooks_is_not_taken_apart() -> None:
    model, x = Blocks(), torch.randn(4, 16)
    seen: list[str] = []
    model.first.register_forward_hook(lambda *_: seen.append("first"))
    model.second.register_forward_pre_hook(lambda _, args: (args[0] + 1,))
    model.second.register_full_backward_hook(lambda *_: seen.append("back"))
    model.register_forward_hook(lambda *call: call[-1] * 3)
    expected = model(x)
    recording = capture(model, (x,), training=True)
    assert recording.opaque == dict.fromkeys(["first", "second"], "it has hooks")
    with virtual_gpus(2):
        placement = {"x": "cuda:0", "first": "cuda:0", "second": "cuda:1"}
        placed = place(model, recording, placement)
        seen.clear()
        found = placed(x)
        found.sum().backward()
        assert seen == ["first", "back"]
        torch.testing.assert_close(found.to("cpu"), expected)


def test_hooks_that_will_not_run_are_told() -> None:
    model, x = Blocks(boxed=True), torch.randn(4, 16)
    model.second.register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match="hooks of 'second' will not run"):
        recording = capture(model, (x,), training=True)
    assert not recording.opaque


def test_a_hook_on_a_module_that_was_taken_apart_is_told() -> None:
    model, x = Blocks(), torch.randn(4, 16)
    recording = capture(model, (x,), training=True)
    with virtual_gpus(2):
        placed = copy.deepcopy(place(model, recording, blocks(recording, ["second_two"])))
        placed(x)
        seen: list[str] = []
        for path in ("first", "second.one"):
            placed.get_submodule(path).register_forward_hook(lambda *_, p=path: seen.append(p))
        for register in ("register_forward_pre_hook", "register_full_backward_hook"):
            with pytest.warns(UserWarning, match="a hook on 'second' does not run"):
                getattr(placed.get_submodule("second"), register)(lambda *_: None)
        placed(x).sum().backward()
        assert seen == ["first", "second.one"]


def filling_in(forward: Any) -> Any:
    """Gives `scale` to whoever calls without it, as libraries' decorators do."""

    @functools.wraps(forward)
    def filled(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("scale") is None:
            kwargs["scale"] = 2.0
        return forward(self, *args, **kwargs)

    return filled


class FilledIn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4)

    @filling_in
    def forward(self, x: Tensor, scale: float | None = None) -> Tensor:
        assert scale is not None
        return self.layer(x) * scale


def test_a_decorator_that_fills_arguments_in_works_on_one_device() -> None:
    model, x = FilledIn(), torch.randn(2, 16)
    recording = capture(model, (x,), training=True)
    placed = place(model, recording, dict.fromkeys(recording.nodes, "cpu"))
    torch.testing.assert_close(placed(x), model(x))


def test_types_change_and_devices_stay() -> None:
    with virtual_gpus(2):
        placed = split("seqnet", "lin2")
        homes = {name: p.device for name, p in placed.named_parameters()}
        assert placed.to(torch.bfloat16) is placed
        assert placed(X.bfloat16()).dtype == torch.bfloat16
        assert {n: p.device for n, p in placed.named_parameters()} == homes
        with pytest.warns(UserWarning, match="nothing moved from 'cuda:1' to 'cuda:0'"):
            placed.to("cuda:0", torch.float32)
        with pytest.warns(UserWarning, match="from 'cuda:0' to 'cpu', from 'cuda:1' to 'cpu'"):
            nn.ModuleList([placed]).cpu()
        assert {n: p.device for n, p in placed.named_parameters()} == homes
        assert placed(X).dtype == torch.float32


def test_moving_to_where_everything_is_says_nothing() -> None:
    placed = on_cpu("seqnet").to("cpu")
    assert placed(X).shape == (64, 10)


@pytest.mark.parametrize("name", ["seqnet", "language_model"])
def test_what_is_saved_the_original_loads(name: str, tmp_path: Path) -> None:
    names = list(captured(name).nodes)
    with virtual_gpus(2):
        placed = split(name, names[len(names) // 2])
        with torch.no_grad():
            for parameter in placed.parameters():
                parameter.add_(1)
        torch.save(placed.state_dict(), tmp_path / "state.pt")
        save_model(placed, str(tmp_path / "model.safetensors"))
        expected = {key: value.to("cpu") for key, value in placed.state_dict().items()}
    for load in (
        lambda model: model.load_state_dict(
            torch.load(tmp_path / "state.pt", weights_only=True, map_location="cpu")
        ),
        lambda model: load_model(model, str(tmp_path / "model.safetensors")),
    ):
        model = ZOO[name].build()
        load(model)
        for key, value in model.state_dict().items():
            assert torch.equal(value, expected[key])


def test_a_pretrained_model_is_saved_under_its_own_name(tmp_path: Path) -> None:
    original = ZOO["hf_gpt2_no_cache"].build()
    names = list(captured("hf_gpt2_no_cache").nodes)
    with virtual_gpus(2):
        placed: Any = split("hf_gpt2_no_cache", names[len(names) // 2])
        placed.save_pretrained(tmp_path)
        assert len(set(placed.hf_device_map.values())) == 2
    loaded = type(original).from_pretrained(tmp_path)  # type: ignore[attr-defined]
    assert loaded.config.architectures == ["GPT2LMHeadModel"]
    for key, value in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.Adagrad, torch.optim.SGD])
def test_optimizer_state_moves_on_to_another_placement(optimizer: Any, tmp_path: Path) -> None:
    def make(parameters: Any) -> torch.optim.Optimizer:
        momentum = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
        made: torch.optim.Optimizer = optimizer(parameters, lr=0.01, **momentum)
        return made

    original = ZOO["seqnet"].build()
    train(original, make)
    continued = copy.deepcopy(original)
    after = make(continued.parameters())
    after.load_state_dict(train(original, make).state_dict())
    with virtual_gpus(3):
        first = split("seqnet", "lin2")
        train(first, make)
        other = split("seqnet", "lin1", "lin2")
        other.load_state_dict(first.state_dict())
        file = tmp_path / "optimizer.pt"
        torch.save(train(first, make).state_dict(), file)
        moved = make(other.parameters())
        moved.load_state_dict(torch.load(file, weights_only=True))
        for parameter, state in moved.state.items():
            for value in state.values():
                if isinstance(value, Tensor) and value.dim() > 0:
                    assert value.device == parameter.device
        for module, optimizer_ in ((continued, after), (other, moved)):
            optimizer_.zero_grad()
            loss_of(module).backward()
            optimizer_.step()
        assert {str(p.device) for p in other.parameters()} == {"cuda:1", "cuda:2"}
        assert_same_parameters(other, continued)


def _distributed_step(rank: int, address: str, state: Mapping[str, Tensor], folder: str) -> None:
    """One of two processes: a step on its half of the batch."""
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        placed = halved("seqnet")
        placed.load_state_dict(state)
        parallel = DistributedDataParallel(placed, device_ids=None)
        optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
        output = parallel(X[rank::2])
        nn.functional.cross_entropy(output, LABELS[rank::2]).backward()
        optimizer.step()
        torch.save(placed.state_dict(), f"{folder}/{rank}.pt")
    finally:
        distributed.destroy_process_group()


def test_it_trains_in_two_processes(tmp_path: Path) -> None:
    original = ZOO["seqnet"].build()
    address = (tmp_path / "meeting").as_uri()
    state = copy.deepcopy(original.state_dict())
    parts = [
        FORKS.Process(target=_distributed_step, args=(rank, address, state, str(tmp_path)))
        for rank in range(2)
    ]
    for part in parts:
        part.start()
    for part in parts:
        part.join()
    assert [part.exitcode for part in parts] == [0, 0]
    optimizer = torch.optim.SGD(original.parameters(), lr=0.1)
    loss_of(original).backward()
    optimizer.step()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for key, value in original.state_dict().items():
            torch.testing.assert_close(found[key], value)


@contextlib.contextmanager
def silenced() -> Any:
    """Libraries warn of each other's deprecations, and of moves that a placed module declines."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_lightning_trains_it_as_the_original(tmp_path: Path) -> None:
    with silenced():
        import lightning

    class Training(lightning.LightningModule):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, index: int) -> Tensor:
            output = self.net(batch[0])
            return nn.functional.cross_entropy(output, batch[1].to(output.device))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=0.01)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, LABELS), batch_size=16)

    def fit(net: nn.Module, accelerator: str) -> None:
        with silenced():
            lightning.Trainer(
                accelerator=accelerator,
                devices=1,
                max_epochs=2,
                gradient_clip_val=0.5,
                default_root_dir=tmp_path,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            ).fit(Training(net), data)

    original = ZOO["seqnet"].build()
    fit(original, "cpu")
    with virtual_gpus(2):
        placed = split("seqnet", "lin2")
        fit(placed, "gpu")
        assert {str(p.device) for p in placed.parameters()} == {"cuda:0", "cuda:1"}
        assert_same_parameters(placed, original)


def loss_to_the_trainers_device(module: nn.Module, args: Any, output: Any) -> None:
    """The `Trainer` adds losses up on its own device, the first."""
    output.loss = output.loss.to("cuda:0" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("counted", [False, True], ids=["alone", "with num_items_in_batch"])
def test_the_hugging_face_trainer_trains_it_as_the_original(counted: bool, tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    original: Any = ZOO["hf_gpt2_labels"].build()
    original.config.use_cache = False
    for module in original.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    batch = {k: v for k, v in ZOO["hf_gpt2_labels"].kwargs().items() if isinstance(v, Tensor)}
    call = {**batch, "num_items_in_batch": torch.tensor(16)} if counted else batch
    recording = capture(original, (), call, training=True)
    names = list(recording.nodes)
    data: Any = [{key: value[0] for key, value in batch.items()}] * 8

    def fit(model: nn.Module, *, use_cpu: bool) -> list[float]:
        options = TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=2,
            max_steps=3,
            learning_rate=0.01,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=use_cpu,
        )
        with silenced():
            trainer = Trainer(model=model, args=options, train_dataset=data)
            trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    with virtual_gpus(2):
        placed = place(original, recording, blocks(recording, [names[len(names) // 2]]))
        placed.register_forward_hook(loss_to_the_trainers_device)
        losses = fit(placed, use_cpu=False)
        assert {str(p.device) for p in placed.parameters()} == {"cuda:0", "cuda:1"}
        original.accepts_loss_kwargs = counted
        assert losses == pytest.approx(fit(original, use_cpu=True), abs=1e-3)
        assert_same_parameters(placed, original)
