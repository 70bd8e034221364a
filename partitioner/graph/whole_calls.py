"""A second run, with submodules called whole: what Python's frames keep alive, what runs again.

A placed module calls a submodule that is wholly on one device as it is (see `emit.fold`). Inside,
the submodule's arguments and local variables live until its `forward` returns or rebinds them,
longer than the recorded graph needs them, and so are part of the forward's peak. The operators are
the same in the same order, so that births and deaths of this run can be laid over the nodes of the
first one.

Where its code checkpoints activations, the backward computes the region again, as far as the last
tensor that it saves.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from cost_models import OperatorCall
from partitioner.capture import Captured, ModuleCall, by_keyword
from partitioner.capture.regions import is_checkpoint, saved_tensor_hooks
from partitioner.graph.loss import trainable_outputs
from partitioner.graph.run import Run
from partitioner.graph.trace import Rehearsal
from partitioner.graph.unknown import fake_value


class WholeCalls(Run):
    """Runs the outermost submodules that can be called whole by calling them.

    Args:
        model: as for `Run`.
        captured: as for `Run`.
        mode: as for `Run`.
        expected: the operators of the run node by node, each with its node's index.
        several: whether there are several devices. With one, the model itself is called; with
            several, a submodule of more than half of the nodes is taken to be split.
    """

    def __init__(
        self,
        model: nn.Module,
        captured: Captured,
        mode: FakeTensorMode,
        expected: Sequence[tuple[Any, int]],
        *,
        several: bool,
    ) -> None:
        super().__init__(model, captured, mode)
        self.expected = expected
        self.matched = 0
        self.checkpointed: list[_Region] = []
        self.recomputing: _Region | None = None
        self.recomputed: dict[int, list[OperatorCall]] = {}
        self.root = not several and any(c.foldable and not c.path for c in captured.calls)
        self.whole: dict[str, ModuleCall] = {}
        self.begins: dict[str, ModuleCall] = {}
        self.results: dict[str, Any] = {}
        state = {node.name for node in captured.graph.nodes if node.op == "get_attr"}
        for call in captured.calls:
            nodes = [name for name in call.nodes if name not in state]
            if not call.path or not nodes or (several and 2 * len(nodes) > len(self.order)):
                continue
            if nodes[0] not in self.whole and self._is_whole(call):
                self.whole.update(dict.fromkeys(nodes, call))
                self.begins[nodes[0]] = call
        self._keep_arguments()

    def lay_over(self, rehearsal: Rehearsal, end: int, training: bool) -> None:
        """Run the forward, and let storages live as long in `rehearsal` as they do here.

        In training, the operators that the backward computes again are noted there, too. Nothing
        happens where the two runs differ, as where a submodule has a faster way of its own.

        Args:
            rehearsal: the run node by node.
            end: its clock after the forward.
            training: with gradients.
        """
        self.note_state()
        with torch.set_grad_enabled(training), self.ledger:
            returned = [self.forward()]
        self.env.clear()
        self.ledger.enter(len(self.order) - 1, 0)
        if self.matched == len(self.expected):
            rehearsal.ledger.follow(self.ledger, end)
            if self.checkpointed:
                self._recompute(returned[0])
                for position, calls in self.recomputed.items():
                    rehearsal.nodes[position].recomputed[:] = calls
        returned.clear()

    def _recompute(self, returned: Any) -> None:
        """Run the backward, which computes the last region first."""
        self.recomputed = {node: [] for region in self.checkpointed for _, node in region.operators}
        roots = trainable_outputs(returned)
        gradients = [torch.ones_like(root) for root in roots]
        self.phase = "backward"
        with self.ledger, self.recorder:
            torch.autograd.backward(roots, gradients)

    def forward(self) -> Any:
        """What the model returns."""
        return self._call_root() if self.root else super().forward()

    def _keep_arguments(self) -> None:
        """Let a value live until the last call that takes it, used inside or not."""
        last_user = {
            value: user for user, values in self.user_to_last_uses.items() for value in values
        }
        by_name = {node.name: node for node in self.captured.graph.nodes}
        for first, call in self.begins.items():
            taken: list[fx.Node] = []
            fx.node.map_arg((call.args, dict(call.kwargs)), taken.append)
            for value in dict.fromkeys(taken):
                user = last_user.get(value, value)
                if self.position.get(user.name, len(self.order)) < self.position[first]:
                    if value in last_user:
                        self.user_to_last_uses[user].remove(value)
                    self.user_to_last_uses.setdefault(by_name[first], []).append(value)
                    last_user[value] = by_name[first]

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, or the submodule call that begins with it."""
        if n.name not in self.whole:
            return super().run_node(n)
        call = self.begins.get(n.name)
        if call is not None:
            info = self.captured.nodes[n.name]
            self.enter_region(info.grad_enabled, info.autocast)
            self.results.update(_values(call.result, self._called(call)))
        return self.results.pop(n.name, None)

    def _called(self, call: ModuleCall) -> Any:
        args = fx.node.map_arg(call.args, lambda node: self.env[node])
        kwargs = fx.node.map_arg(dict(call.kwargs), lambda node: self.env[node])
        return self.model.get_submodule(call.path)(*args, **kwargs)

    def _call_root(self) -> Any:
        """Call the model's `forward` as a placed module does: nobody else holds its arguments."""
        args, kwargs = self.captured.example
        examples = self.captured.input_spec.flatten(args, kwargs)
        inputs = [node.name for node in self.captured.graph.nodes if node.op == "placeholder"]
        made = {
            id(example): fake_value(self.captured.nodes[name].value)
            for example, name in zip(examples, inputs, strict=True)
        }
        bound = self.captured.signature.bind(*args, **kwargs)
        bound.apply_defaults()

        def take(name: str) -> Any:
            value = bound.arguments[name]
            return pytree.tree_map_only(torch.Tensor, lambda tensor: made.pop(id(tensor)), value)

        taken = ["model"]
        for name in bound.arguments:
            match self.captured.signature.parameters[name].kind:
                case inspect.Parameter.VAR_POSITIONAL:
                    taken.append(f"*take({name!r})")
                case inspect.Parameter.VAR_KEYWORD:
                    taken.append(f"**take({name!r})")
                case _ if by_keyword(self.captured.signature, name):
                    taken.append(f"{name}=take({name!r})")
                case _:
                    taken.append(f"take({name!r})")
        names = {"forward": type(self.model).forward, "model": self.model, "take": take}
        return eval(f"forward({', '.join(taken)})", names)

    def _is_whole(self, call: ModuleCall) -> bool:
        infos = [self.captured.nodes[name] for name in call.nodes]
        one_region = len({(info.grad_enabled, info.autocast) for info in infos}) == 1
        return call.foldable and one_region and _is_plain((call.args, dict(call.kwargs)))

    def _locate(self, operator: Any) -> None:
        """Find the node that called this operator in the first run; a recording leaves out some."""
        hooks = saved_tensor_hooks()
        if self.phase != "forward":
            self._locate_again(hooks)
            return
        index = self.matched
        self.ledger.aside = index == len(self.expected) or self.expected[index][0] is not operator
        if not self.ledger.aside:
            position = self.expected[index][1]
            self.ledger.enter(max(position, self.ledger.point), position)
            self.matched += 1
            if is_checkpoint(hooks):
                if not self.checkpointed or self.checkpointed[-1].hooks != hooks:
                    self.checkpointed.append(_Region(hooks))
                self.checkpointed[-1].operators.append((str(operator), position))

    def _locate_again(self, hooks: Any) -> None:
        """Find the region that the backward computes again."""
        if not is_checkpoint(hooks):
            self.recomputing = None
        elif self.recomputing is None or self.recomputing.hooks != hooks:
            self.recomputing = _Region(hooks, self.checkpointed.pop().operators[::-1])

    def _record(self, call: OperatorCall) -> None:
        """Note what is computed again; what costs nothing is passed over in the region."""
        if self.recomputing is None:
            return
        operator, position = "", 0
        while operator != call.operator:
            operator, position = self.recomputing.operators.pop()
        self.recomputed[position].append(call)


@dataclass
class _Region:
    """A stretch that is checkpointed.

    Attributes:
        hooks: on what autograd saves in it.
        operators: of its forward, each with its node's index.
    """

    hooks: Any
    operators: list[tuple[str, int]] = field(default_factory=list)


def _is_plain(value: Any) -> bool:
    """Whether a value can be written in a line of code."""
    if isinstance(value, tuple | list):
        return all(_is_plain(entry) for entry in value)
    if isinstance(value, Mapping):
        return all(_is_plain(entry) for entry in value.values())
    plain = bool | int | float | complex | str | fx.Node | torch.dtype
    return value is None or isinstance(value, plain)


def _values(recorded: Any, result: Any) -> Iterator[tuple[str, Any]]:
    """The values of the nodes in what a call returned."""
    if isinstance(recorded, fx.Node):
        yield recorded.name, result
    elif isinstance(recorded, Mapping):
        for key, entry in recorded.items():
            yield from _values(entry, result[key])
    elif isinstance(recorded, tuple | list):
        for entry, value in zip(recorded, result, strict=True):
            yield from _values(entry, value)
    elif dataclasses.is_dataclass(recorded) and not isinstance(recorded, type):
        for each in dataclasses.fields(recorded):
            yield from _values(getattr(recorded, each.name), getattr(result, each.name))
