"""Original and placed side by side: outputs, gradients, one optimizer step, and memory."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from partitioner.capture import in_mode
from partitioner.distributed import joined, micro_calls
from partitioner.graph import Loss, optimizer_factory, output_tensors
from partitioner.options import LossFunction, Targets, loss_of_plan
from partitioner.plan import Plan
from partitioner.virtual import virtual_gpus

RELATIVE_TOLERANCE = 1e-4
ABSOLUTE_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far two sets of tensors lie apart.

    Attributes:
        what: `"outputs"`, `"gradients"` or `"parameters after two steps"`.
        tensors: how many were compared.
        largest_difference: the largest absolute difference of two elements.
        differing: names of the tensors that differ by more than the tolerance, or in shape.
    """

    what: str
    tensors: int
    largest_difference: float
    differing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a side-by-side run found.

    Attributes:
        on: `"real GPUs"`, `"virtual GPUs"` or `"cpu"`.
        comparisons: outputs, and in training gradients and stepped parameters.
        promised_peak_nbytes: by device, from the plan.
        measured_peak_nbytes: by device, from the run; empty where it cannot be measured.
    """

    on: str
    comparisons: tuple[Comparison, ...]
    promised_peak_nbytes: Mapping[str, int]
    measured_peak_nbytes: Mapping[str, int]

    @property
    def passed(self) -> bool:
        """Everything is equal within tolerance, and no device took over 1% more than promised."""
        return not any(comparison.differing for comparison in self.comparisons) and all(
            measured <= 1.01 * self.promised_peak_nbytes[name]
            for name, measured in self.measured_peak_nbytes.items()
        )


def verify(
    model: nn.Module,
    plan: Plan,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
    loss: LossFunction = None,
    targets: Targets = None,
    seed: int = 0,
) -> VerifyReport:
    """Run `model` and its placement by `plan` with equal weights, inputs and random numbers.

    On the GPUs of the plan where this machine has them, else on virtual ones. Next to a pipeline
    the whole model runs on one micro-batch after the other; both run without dropout then.

    Args:
        model: with real parameters; not modified.
        plan: made for this model.
        args: of the call, real tensors on the CPU; of a pipeline, a whole batch.
        kwargs: likewise.
        make_optimizer: in training, two steps of it are compared; `None` is the plan's optimizer
            where the plan knows it by name, else SGD.
        loss: in training; `None` is the plan's where PyTorch knows it by name.
        targets: of the loss; `None` are zeros of the planned sizes.
        seed: of the random numbers that both runs draw.

    Raises:
        PlanError: the plan is for another model.
        SpecError: the plan's loss is not known by its name, and was not given.
    """
    kwargs = dict(kwargs or {})
    training = plan.mode == "train"
    make = make_optimizer or optimizer_factory(plan.optimizer or "sgd")
    loss_fn = loss_of_plan(plan, loss, targets).with_data()
    micro_batches = 1 if plan.pipeline is None else plan.pipeline.micro_batches
    original = in_mode(copy.deepcopy(model), training)
    with contextlib.ExitStack() as stack:
        if plan.pipeline is not None:
            stack.enter_context(_WithoutDropout())
        whole = _Whole(original, micro_batches, loss_fn)
        expected = _run(whole, args, kwargs, make if training else None, seed)
        on, peaks = stack.enter_context(_devices(plan))
        placed: _Whole | _Pipeline
        if plan.pipeline is None:
            placed = _Whole(in_mode(plan.apply(model), training), micro_batches, loss_fn)
        else:
            placed = _Pipeline(plan, model, loss_fn)
        found = _run(placed, args, kwargs, make if training else None, seed)
        measured = peaks()
    return VerifyReport(
        on=on,
        comparisons=tuple(_compare(what, expected[what], found[what]) for what in expected),
        promised_peak_nbytes={name: use.peak for name, use in plan.memory.items()},
        measured_peak_nbytes=measured,
    )


class _Whole:
    """A module that is stepped micro-batch by micro-batch.

    What a training loop keeps in variables is kept here: the output and the loss.
    """

    def __init__(self, module: nn.Module, micro_batches: int, loss_fn: Loss) -> None:
        self.module = module
        self.micro_batches = micro_batches
        self.loss_fn = loss_fn
        self.output: Any = None
        self.loss: torch.Tensor | None = None

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.module.named_parameters())

    def step(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
        """Forward and, with gradients enabled, backward; the outputs on the host."""
        self.module.zero_grad(set_to_none=True)
        returned = []
        for micro_args, micro_kwargs in micro_calls(args, kwargs, self.micro_batches):
            self.output = self.module(*micro_args, **micro_kwargs)
            returned.append([_on_host(leaf) for leaf in output_tensors(self.output)])
            if torch.is_grad_enabled():
                self.loss = self.loss_fn(self.output)
                if self.micro_batches > 1:
                    self.loss = self.loss / self.micro_batches
                self.loss.backward()  # type: ignore[no-untyped-call]
        return returned[0] if self.micro_batches == 1 else joined(returned)


class _Pipeline:
    """A pipeline on the plan's devices."""

    def __init__(self, plan: Plan, model: nn.Module, loss_fn: Loss) -> None:
        self.pipeline = plan.pipeline_on(model, lambda output, _: loss_fn(output))
        for stage in self.pipeline.stages:
            in_mode(stage, plan.mode == "train")

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.pipeline.named_parameters())

    def step(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
        self.pipeline.zero_grad()
        return [_on_host(leaf) for leaf in output_tensors(self.pipeline.step(*args, **kwargs))]


class _WithoutDropout(TorchFunctionMode):
    """Nothing is dropped: stages would draw in another order than the whole model."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "native_dropout":
            return args[0], torch.ones_like(args[0], dtype=torch.bool)
        if "dropout" in name:
            return args[0] if args else kwargs["input"]
        if name == "scaled_dot_product_attention":
            args = args[:4] + (0.0,) * (len(args) > 4) + args[5:]
            if "dropout_p" in kwargs:
                kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)


def _run(
    subject: _Whole | _Pipeline,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None,
    seed: int,
) -> dict[str, dict[str, torch.Tensor]]:
    """One call, and in training two steps: the second one is when all of the memory is taken."""
    torch.manual_seed(seed)
    args, kwargs = copy.deepcopy((args, dict(kwargs)))
    if make_optimizer is None:
        with torch.no_grad():
            return {"outputs": _named(subject.step(args, kwargs))}
    trainable = [(name, p) for name, p in subject.parameters() if p.requires_grad]
    optimizer = make_optimizer([p for _, p in trainable]) if trainable else None
    results: dict[str, dict[str, torch.Tensor]] = {}
    for _ in range(2):
        outputs = subject.step(args, kwargs)
        if not results:
            results["outputs"] = _named(outputs)
            results["gradients"] = {
                name: _on_host(p.grad) for name, p in trainable if p.grad is not None
            }
        if optimizer is not None:
            optimizer.step()
    results["parameters after two steps"] = {
        name: _on_host(parameter) for name, parameter in subject.parameters()
    }
    return results


def _named(outputs: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"output {i}": tensor for i, tensor in enumerate(outputs)}


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that takes no memory on the tensor's device."""
    return tensor.detach().to("cpu", copy=True)


def _compare(
    what: str, expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]
) -> Comparison:
    differing = [name for name in expected if name not in found]
    differing += [name for name in found if name not in expected]
    largest = 0.0
    for name, left in expected.items():
        right = found.get(name)
        if right is None:
            continue
        if left.shape != right.shape or left.dtype != right.dtype:
            differing.append(name)
            continue
        if left.numel():
            largest = max(largest, float((left.double() - right.double()).abs().max()))
        if not torch.allclose(
            left, right, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE, equal_nan=True
        ):
            differing.append(name)
    return Comparison(what, len(expected), largest, tuple(differing))


@contextmanager
def _devices(plan: Plan) -> Iterator[tuple[str, Callable[[], dict[str, int]]]]:
    """The plan's GPUs: real ones where this machine has them all, else virtual ones."""
    gpus = [name for name in plan.devices if torch.device(name).type == "cuda"]
    if not gpus:
        yield "cpu", dict
    elif _present(gpus):
        for name in gpus:
            torch.cuda.reset_peak_memory_stats(name)
        yield "real GPUs", lambda: {name: torch.cuda.max_memory_allocated(name) for name in gpus}
    else:
        with virtual_gpus(plan.virtual_cluster()) as virtual:
            yield "virtual GPUs", lambda: {name: virtual[name].peak_nbytes for name in gpus}


def _present(names: list[str]) -> bool:
    return torch.cuda.is_available() and all(
        (torch.device(name).index or 0) < torch.cuda.device_count() for name in names
    )
