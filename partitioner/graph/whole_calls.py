"""A second run in inference, with submodules called whole: what Python's frames keep alive.

A placed module calls a submodule that is wholly on one device as it is (see `emit.fold`). Inside,
the submodule's arguments and local variables live until its `forward` returns or rebinds them,
longer than the recorded graph needs them. In training autograd keeps most of them anyway; without
gradients they are part of the peak. The operators are the same in the same order, so that births
and deaths of this run can be laid over the nodes of the first one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from partitioner.capture import Captured, ModuleCall
from partitioner.graph.run import Run


class WholeCalls(Run):
    """Runs the outermost submodules that can be called whole by calling them.

    Args:
        model: as for `Run`.
        captured: as for `Run`.
        mode: as for `Run`.
        expected: the operators of the run node by node, each with its node's index.
    """

    def __init__(
        self,
        model: nn.Module,
        captured: Captured,
        mode: FakeTensorMode,
        expected: Sequence[tuple[Any, int]],
    ) -> None:
        super().__init__(model, captured, mode)
        self.expected = expected
        self.same = True
        self.whole: dict[str, ModuleCall] = {}
        self.results: dict[str, Any] = {}
        for call in captured.calls:
            if call.nodes and call.nodes[0] not in self.whole and self._is_whole(call):
                self.whole.update(dict.fromkeys(call.nodes, call))

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, or the submodule call that begins with it."""
        call = self.whole.get(n.name)
        if call is None or n.op == "get_attr":
            return super().run_node(n)
        if call.nodes[0] == n.name or next(iter(self._calling(call)), None) == n.name:
            self._call(call)
        return self.results.pop(n.name, None)

    def _calling(self, call: ModuleCall) -> Iterator[str]:
        """The nodes of a call that are not `get_attr`s, which run by themselves."""
        operations = {node.name: node.op for node in self.captured.graph.nodes}
        return (name for name in call.nodes if operations[name] != "get_attr")

    def _call(self, call: ModuleCall) -> None:
        info = self.captured.nodes[next(self._calling(call))]
        self._enter_region(info.grad_enabled, info.autocast)
        args = fx.node.map_arg(call.args, lambda node: self.env[node])
        kwargs = fx.node.map_arg(dict(call.kwargs), lambda node: self.env[node])
        result = self.model.get_submodule(call.path)(*args, **kwargs)
        self.results.update(_values(call.result, result))

    def _is_whole(self, call: ModuleCall) -> bool:
        infos = [self.captured.nodes[name] for name in call.nodes]
        return call.foldable and len({(info.grad_enabled, info.autocast) for info in infos}) == 1

    def _locate(self, operator: Any) -> None:
        index = len(self.operators)
        self.operators.append((operator, 0))
        if index < len(self.expected) and self.expected[index][0] is operator:
            position = self.expected[index][1]
            self.ledger.enter(max(position, self.ledger.point), position)
        else:
            self.same = False


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
        for field in dataclasses.fields(recorded):
            yield from _values(getattr(recorded, field.name), getattr(result, field.name))
