"""Running a recorded graph on fake tensors, so that a broken recording never leaves this stage."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from partitioner.capture.captured import Captured, TensorSpec
from partitioner.capture.clone import fake_clone, fake_like, fetch
from partitioner.capture.fakes import Fakes
from partitioner.capture.structure import tensors_of
from partitioner.errors import CaptureError


class GraphRun(fx.Interpreter):
    """Runs a captured graph with a model's own modules and tensors.

    Grad mode and autocast are what the recording says of each node.

    Args:
        model: the original, or a clone of it.
        captured: its recording.
    """

    def __init__(self, model: nn.Module, captured: Captured) -> None:
        super().__init__(nn.Module(), graph=captured.graph)
        self.model = model
        self.captured = captured

    def fetch_attr(self, target: str) -> Any:
        """Read a tensor or a flag of the model."""
        if target in self.captured.constants:
            return self.captured.constants[target]
        return fetch(self.model, target)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call a leaf module; of the whole model's result, the tensors in order."""
        result = self.model.get_submodule(target)(*args, **kwargs)
        return result if target else tensors_of(result)

    def run_node(self, n: fx.Node) -> Any:
        """Run one node under its grad mode and autocast region."""
        info = self.captured.nodes.get(n.name)
        with ExitStack() as stack:
            if info is not None and not info.grad_enabled:
                stack.enter_context(torch.no_grad())
            if info is not None and info.autocast is not None:
                kind, dtype, enabled, cache = info.autocast
                stack.enter_context(torch.autocast(kind, getattr(torch, dtype), enabled, cache))
            return super().run_node(n)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph as the model would be called.

        Raises:
            CaptureError: the inputs are not what was recorded, or have sizes that do not fit.
        """
        inputs = self.captured.input_spec.flatten(args, kwargs)
        sizes = dict(zip(self.captured.input_spec.placeholders, inputs, strict=True))
        for condition in self.captured.conditions:
            if not condition.holds(lambda name, dimension: sizes[name].shape[dimension]):
                raise CaptureError(f"the recording holds only where {condition.text}")
        return self.captured.output_spec.rebuild(self.run(*inputs))


def check(model: nn.Module, captured: Captured) -> str | None:
    """Run a recording on fresh fake tensors of the example's sizes.

    Returns:
        What is wrong: a node that fails, or whose result has another shape or type than recorded;
        `None` if nothing is.
    """
    mode = Fakes(shape_env=ShapeEnv())
    clone = fake_clone(model, mode)
    args, kwargs = captured.example
    tensors = captured.input_spec.flatten(args, kwargs)
    fakes = [fake_like(tensor, mode) for tensor in tensors]
    run = _Checked(clone, captured)
    try:
        with mode:
            run.run(*fakes)
    except Exception as error:
        return f"{run.at}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return run.wrong


class _Checked(GraphRun):
    def __init__(self, model: nn.Module, captured: Captured) -> None:
        super().__init__(model, captured)
        self.at = ""
        self.wrong: str | None = None

    def run_node(self, n: fx.Node) -> Any:
        self.at = n.name
        if n.op == "call_module" and n.target in self.captured.opaque:
            return _made(self.captured.nodes[n.name].value)
        result = super().run_node(n)
        info = self.captured.nodes.get(n.name)
        if info is not None and isinstance(info.value, TensorSpec) and self.wrong is None:
            self.wrong = _difference(n.name, info.value, result)
        return result


def _made(spec: Any) -> Any:
    if isinstance(spec, TensorSpec):
        made = torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))
        return made.requires_grad_(spec.requires_grad)
    if isinstance(spec, tuple):
        return tuple(_made(item) for item in spec)
    if isinstance(spec, dict):
        return {key: _made(item) for key, item in spec.items()}
    return None


def _difference(name: str, spec: TensorSpec, result: Any) -> str | None:
    if not isinstance(result, Tensor):
        return f"{name}: recorded a tensor, running gave a {type(result).__name__}"
    dtype = str(result.dtype).removeprefix("torch.")
    if dtype != spec.dtype:
        return f"{name}: recorded {spec.dtype}, running gave {dtype}"
    if len(result.shape) != len(spec.shape) or any(
        isinstance(now, int) and now != then
        for now, then in zip(result.shape, spec.shape, strict=True)
    ):
        return f"{name}: recorded {spec.shape}, running gave {tuple(result.shape)}"
    return None
