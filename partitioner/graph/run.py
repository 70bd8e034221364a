"""`Run`: the recorded graph, interpreted on fake tensors under the ledger."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from cost_models import CostModelError, OperatorCall, OperatorRecorder
from cost_models.signatures import tensors_in
from partitioner.capture import DATA_DEPENDENT, Answering, Captured, GraphRun
from partitioner.capture.clone import NamedTensor, fake_like, named_tensors
from partitioner.capture.regions import is_checkpoint, saved_tensor_hooks
from partitioner.graph.ledger import Life, StorageLedger
from partitioner.graph.loss import OUTPUT_LOSS, Loss, trainable_outputs
from partitioner.graph.trace import GradientFlow, NodeTrace, Rehearsal
from partitioner.graph.unknown import Unknown, fake_value, with_all_gradients


class Run(GraphRun):
    """Runs the recording node by node and writes down what happens.

    Args:
        model: a clone of the recorded model with fake tensors of `mode`.
        captured: the recording.
        mode: the fake tensors' mode, which must be on during `step`.
        loss: of a training step.
    """

    def __init__(
        self,
        model: nn.Module,
        captured: Captured,
        mode: FakeTensorMode,
        loss: Loss = OUTPUT_LOSS,
    ) -> None:
        super().__init__(model, captured)
        self.mode = mode
        self.loss = loss
        self.order = tuple(node.name for node in captured.graph.nodes if node.op != "output")
        self.position = {name: i for i, name in enumerate(self.order)}
        self.traces = tuple(NodeTrace() for _ in self.order)
        self.ledger = StorageLedger(self._locate)
        self.recorder = OperatorRecorder(self._record)
        self.constants = {
            target: fake_like(tensor, mode) for target, tensor in captured.constants.items()
        }
        self.regions = ExitStack()
        self.region: tuple[bool, Any] = (True, None)
        self.boundaries: list[int] = []
        self.boundary_nodes: list[int] = []
        self.flows: dict[Life, list[GradientFlow]] = defaultdict(list)
        self.owners = {
            state: self.position[name]
            for name, info in captured.nodes.items()
            for state in info.state
        }
        self.phase = "forward"
        self.training = False
        self.current = 0
        self.forward_end = 0
        self.operators: list[tuple[Any, int]] = []

    def step(self, training: bool) -> Rehearsal:
        """Run one step."""
        self.training = training
        named = self.note_state()
        with torch.set_grad_enabled(training), saved_tensors_hooks(self._pack, _as_is):
            with self.ledger, self.recorder:
                kept = [self.forward()]
            lives = tuple(
                dict.fromkeys(
                    life
                    for source in self._sources_of_output()
                    for life in self.traces[self.position[source]].values
                )
            )
            self.env.clear()
            self.forward_end = self.ledger.clock
            if training:
                kept.append(self._backward(kept[0]))
        gradients = {}
        for held in named:
            if held.role == "parameter" and held.tensor.grad is not None:
                life = self.ledger.life_of(held.tensor.grad)
                if life is not None:
                    gradients[held.names[0]] = life
        last = 2 * len(self.order) if training else len(self.order) - 1
        self.ledger.enter(last, 0)
        loss = self.ledger.life_of(kept[-1]) if training and kept[-1] is not None else None
        del kept
        return Rehearsal(
            self.order, self.traces, self.ledger, lives, loss, gradients, self.flows, last + 1
        )

    def note_state(self) -> tuple[NamedTensor, ...]:
        """Tell the ledger of the model's tensors, which are there all the time."""
        named = named_tensors(self.model)
        for held in named:
            self.ledger.note_state(held.tensor, held.names[0])
        for target, constant in self.constants.items():
            self.ledger.note_state(constant, target)
        return named

    def forward(self) -> Any:
        """Run the graph; what the model returns."""
        with self.regions:
            result = self.captured.output_spec.rebuild(self.run())
            self.enter_region(True, None)
        return result

    def _backward(self, returned: Any) -> torch.Tensor | None:
        """The loss, after its backward; `None` where nothing can be trained."""
        self.phase = "loss"
        self.ledger.enter(len(self.order), len(self.order) - 1)
        if not trainable_outputs(returned):
            return None
        with self.ledger, self.recorder:
            loss = self.loss.without_data()(returned, self._begin_term)
            self.phase = "backward of loss"
            self.boundaries.append(torch._C._autograd._get_sequence_nr())
            self._watch_gradients(loss)
            torch.autograd.backward(loss)
        return loss

    def _begin_term(self, leaf: torch.Tensor) -> None:
        """The loss of one result belongs to the node that made it."""
        life = self.ledger.life_of(leaf)
        if life is not None and life.state is None:
            self.ledger.maker = life.maker
        self.boundaries.append(torch._C._autograd._get_sequence_nr())
        self.boundary_nodes.append(self.ledger.maker)

    def _watch_gradients(self, loss: torch.Tensor) -> None:
        """Note the gradients that go from the backward of one node to that of another."""
        queue: list[Any] = [loss.grad_fn]
        seen = set(queue)
        while queue:
            function = queue.pop()
            source = self._owner(function)
            goals = []
            for place, (following, _) in enumerate(function.next_functions):
                if following is None:
                    continue
                destination = self._owner(following)
                if destination is not None and source is not None and destination != source:
                    goals.append((place, destination))
                if following not in seen:
                    seen.add(following)
                    queue.append(following)
            if goals and source is not None:
                function.register_hook(self._report(source, goals))

    def _report(self, source: int, goals: list[tuple[int, int]]) -> Callable[..., None]:
        def report(gradients: Sequence[torch.Tensor | None], _: Any) -> None:
            for place, destination in goals:
                gradient = gradients[place]
                life = None if gradient is None else self.ledger.life_of(gradient)
                if life is not None and gradient is not None:
                    elements = (gradient.storage_offset(), gradient.size(), gradient.stride())
                    nbytes = gradient.numel() * gradient.itemsize
                    self.flows[life].append(GradientFlow(source, destination, elements, nbytes))

        return report

    def _owner(self, function: Any) -> int | None:
        """The node that a backward function belongs to."""
        variable = getattr(function, "variable", None)
        if isinstance(variable, torch.Tensor):
            life = self.ledger.life_of(variable)
            if life is None:
                return None
            return self.owners.get(life.state) if life.state is not None else life.maker
        number = function._sequence_nr()
        if number >= self.boundaries[-1]:
            return None
        return self.boundary_nodes[bisect.bisect_right(self.boundaries, number) - 1]

    def _sources_of_output(self) -> list[str]:
        """The nodes whose values the model returns."""
        output = next(node for node in self.captured.graph.nodes if node.op == "output")
        return [node.name for node in output.all_input_nodes]

    # The interpreter.

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and note its value."""
        if n.op == "output":
            return fx.Interpreter.run_node(self, n)
        position = self.current = self.position[n.name]
        self.ledger.enter(position, position)
        self.boundaries.append(torch._C._autograd._get_sequence_nr())
        self.boundary_nodes.append(position)
        info = self.captured.nodes[n.name]
        self.enter_region(info.grad_enabled, info.autocast)
        try:
            value = fx.Interpreter.run_node(self, n)
        except DATA_DEPENDENT:
            value = self._unknown(n)
        except Exception as error:
            raise CostModelError(
                f"node '{n.name}' ({info.line or n.format_node()}): {error}"
            ) from error
        self._note_value(position, value)
        return value

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Make an input: its copy on the device lives until its last use."""
        return fake_value(self.captured.nodes[self.order[self.current]].value)

    def fetch_attr(self, target: str) -> Any:
        """Read a tensor or a flag of the model."""
        if target in self.constants:
            return self.constants[target]
        return super().fetch_attr(target)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call a leaf module, under activation checkpointing where the model did so.

        One that decides by its data is told stand-ins, the other ones where the first lead nowhere.
        """
        module = self.model.get_submodule(target)
        if self.captured.nodes[self.order[self.current]].checkpointed:
            return checkpoint(module, *args, use_reentrant=False, **kwargs)
        answering = Answering()
        try:
            with answering:
                result = super().call_module(target, args, kwargs)
        except DATA_DEPENDENT:
            self.traces[self.current].forward.clear()
            answering.go_on(other=True)
            with answering:
                result = super().call_module(target, args, kwargs)
        return with_all_gradients(result, module) if answering.given else result

    def _unknown(self, n: fx.Node) -> Any:
        """A node that decides by its data: its recorded value, charged by bytes."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        reads = [tensor for tensor in tensors_in(pytree.tree_leaves((args, kwargs)))]
        name = f"{n.target}"
        if n.op == "call_module":
            module = self.model.get_submodule(str(n.target))
            reads += module.parameters()
            name = type(module).__qualname__
        made = fake_value(self.captured.nodes[n.name].value)
        leaves, spec = pytree.tree_flatten(made)
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        nbytes = sum(tensor.nbytes for tensor in (*reads, *tensors))
        self.traces[self.current].forward.clear()
        call = OperatorCall(name, f"{name}#{nbytes}", "float32", 0, nbytes, False)
        self._record(call)
        if any(tensor.requires_grad for tensor in reads) and torch.is_grad_enabled():
            outputs = Unknown.apply(lambda: self._record(call), tensors, *reads)  # type: ignore[no-untyped-call]
            replaced = iter(outputs)
            leaves = [next(replaced) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        return pytree.tree_unflatten(leaves, spec)

    def _note_value(self, position: int, value: Any) -> None:
        trace = self.traces[position]
        for tensor in tensors_in(pytree.tree_leaves(value)):
            nbytes = tensor.numel() * tensor.itemsize
            trace.nbytes += nbytes
            if tensor.requires_grad and tensor.is_floating_point():
                trace.gradient_nbytes += nbytes
            life = self.ledger.note(tensor)
            if life is not None:
                trace.values.append(life)

    def enter_region(self, grad_enabled: bool, autocast: Any) -> None:
        """Open what a node was recorded in, and keep it open as long as such nodes follow."""
        if (grad_enabled, autocast) == self.region:
            return
        self.regions.close()
        self.region = (grad_enabled, autocast)
        if not grad_enabled:
            self.regions.enter_context(torch.no_grad())
        if autocast is not None:
            kind, dtype, enabled, cache = autocast
            region = torch.autocast(kind, getattr(torch, dtype), enabled, cache)
            self.regions.enter_context(region)

    # What the modes and hooks report.

    def _locate(self, operator: Any) -> None:
        """In the backward: find the node whose backward function runs."""
        if self.phase == "forward":
            self.operators.append((operator, self.current))
        if not self.phase.startswith("backward"):
            return
        function = torch._C._current_autograd_node()
        number = getattr(function, "_sequence_nr", None)
        if number is None or number() >= self.boundaries[-1]:
            return
        index = bisect.bisect_right(self.boundaries, number()) - 1
        node = self.boundary_nodes[index]
        count = len(self.order)
        self.phase = "backward of loss" if index >= count else "backward"
        point = count if index >= count else 2 * count - 1 - node
        self.ledger.enter(max(point, self.ledger.point), node)

    def _record(self, call: OperatorCall) -> None:
        counts = self.phase in ("forward", "backward") or self.loss.function is not None
        if counts:
            trace = self.traces[self.ledger.maker]
            if not self.phase.startswith("backward"):
                trace.forward.append(call)
            elif is_checkpoint(saved_tensor_hooks()):
                trace.recomputed.append(call)
            else:
                trace.backward.append(call)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        life = self.ledger.life_of(tensor)
        if life is not None and not self.phase.startswith("backward"):
            life.savers.append(self.ledger.maker)
        return tensor


def _as_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
