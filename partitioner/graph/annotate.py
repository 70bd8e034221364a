"""`annotate`: a `Captured` and a cost model become a `CostGraph`."""

from __future__ import annotations

import operator as python_operator
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite

import networkx as nx
from torch import fx, nn

from cost_models import (
    CostModel,
    CostModelError,
    DeviceKind,
    MeasuredCostModel,
    OperatorCall,
    is_bandwidth_bound,
)
from partitioner.capture import Captured, NodeInfo, holds_tensor
from partitioner.errors import InfeasibleError
from partitioner.graph.cost_graph import CostGraph, NodeCost, TensorCost
from partitioner.graph.lifetimes import holdings_of
from partitioner.graph.loss import OUTPUT_LOSS, Loss
from partitioner.graph.optimizer_state import optimizer_factory
from partitioner.graph.rehearsal import Rehearsals
from partitioner.graph.trace import NodeTrace
from partitioner.spec import Cluster


def annotate(
    captured: Captured,
    model: nn.Module,
    cluster: Cluster,
    cost_model: CostModel,
    *,
    training: bool,
    optimizer: object = None,
    loss: Loss = OUTPUT_LOSS,
) -> CostGraph:
    """What each node and tensor of the recording costs on each device of `cluster`.

    Args:
        captured: the recording, in the mode that is planned.
        model: the recorded model; only shapes are read.
        cluster: the devices.
        cost_model: prices operators.
        training: count the backward, gradients, optimizer and what is saved; else inference
            under `torch.no_grad()`.
        optimizer: what `optimizer_factory` accepts; ignored in inference.
        loss: that a step is trained with; its seconds are those of the node whose value it is
            computed from, where it was given.

    Raises:
        CostModelError: a node does not run on fake tensors, or an operator has no price.
        InfeasibleError: a node runs on no device.
        SpecError: the optimizer is unknown or cannot take a step, or the loss does not take what
            the model returns.
    """
    rehearsals = Rehearsals(captured, model, training=training, loss=loss)
    return price(rehearsals, cluster, cost_model, optimizer=optimizer)


def price(
    rehearsals: Rehearsals, cluster: Cluster, cost_model: CostModel, *, optimizer: object = None
) -> CostGraph:
    """As `annotate`, for several clusters or optimizers one after the other.

    Args:
        rehearsals: of the recorded model.
        cluster: as for `annotate`.
        cost_model: as for `annotate`.
        optimizer: as for `annotate`.
    """
    captured, training = rehearsals.captured, rehearsals.training
    make_optimizer = optimizer_factory(optimizer) if training else None
    rehearsal = rehearsals.on(cluster)
    prices = _Prices(cost_model, {device.name: device.figures() for device in cluster.devices})
    graph: nx.DiGraph[str] = nx.DiGraph()
    recorded = [node for node in captured.graph.nodes if node.op != "output"]
    for node, trace in zip(recorded, rehearsal.nodes, strict=True):
        operator = _operator_name(node, rehearsals.model)
        forward, backward = prices.both(node.name, operator, trace)
        graph.add_node(
            node.name,
            cost=NodeCost(
                operator=operator,
                module_path=captured.nodes[node.name].module_path,
                forward_seconds=forward,
                backward_seconds=backward,
                flops=sum(call.flops for call in trace.forward),
            ),
            tensor=TensorCost(trace.nbytes, trace.gradient_nbytes if training else 0),
        )
    readers = readers_of(captured)
    graph.add_edges_from((source, user) for source, users in readers.items() for user in users)
    memory = None
    if make_optimizer is not None:
        memory = rehearsals.optimizer(cluster, make_optimizer)
    return CostGraph(
        graph=graph,
        order=rehearsal.order,
        devices=tuple(device.name for device in cluster.devices),
        holdings=holdings_of(rehearsal, readers, _homes(captured), memory),
        points=rehearsal.points,
        colocated=(*captured.colocated, *_numbers_beside_operands(captured)),
        unpriced=tuple(sorted(prices.unpriced)),
        owners=owners_of(captured),
    )


class _Prices:
    """Prices calls, each distinct one once.

    Attributes:
        unpriced: operators without a FLOP formula, and not measured, whose bytes alone may tell too
            little.
    """

    def __init__(self, cost_model: CostModel, kinds: Mapping[str, DeviceKind]) -> None:
        self.cost_model = cost_model
        self.kinds = kinds
        self.known: dict[tuple[str, str], float] = {}
        self.together: dict[tuple[str, ...], dict[str, float]] = {}
        self.unpriced: set[str] = set()

    def both(
        self, name: str, operator: str, trace: NodeTrace
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Seconds of forward and backward on each device that can do both.

        What a checkpointed region computes again is part of the backward.

        Raises:
            InfeasibleError: there is none.
        """
        forward = self.seconds(name, trace.forward)
        backward = self.seconds(name, (*trace.recomputed, *trace.backward))
        able = [device for device in forward if isfinite(forward[device] + backward[device])]
        if not able:
            raise InfeasibleError(
                f"no device can run '{name}' ({operator}): the cost model gives it no finite time "
                f"on {', '.join(map(repr, forward))}; add a device that can"
            )
        if len(able) == len(forward):
            return forward, backward
        return {d: forward[d] for d in able}, {d: backward[d] for d in able}

    def seconds(self, name: str, calls: Sequence[OperatorCall]) -> dict[str, float]:
        """By device; calls that are equal to others before share these' answer."""
        key = tuple(call.signature for call in calls)
        try:
            if key not in self.together:
                self.together[key] = {
                    device: sum(self._price(call, device) for call in calls)
                    for device in self.kinds
                }
            return self.together[key]
        except CostModelError as error:
            raise CostModelError(f"node '{name}': {error}") from error

    def _price(self, call: OperatorCall, device: str) -> float:
        key = (call.signature, device)
        if key not in self.known:
            kind = self.kinds[device]
            self.known[key] = self.cost_model.seconds(call, kind)
            if not (call.has_formula or is_bandwidth_bound(call.operator)) and not (
                isinstance(self.cost_model, MeasuredCostModel)
                and self.cost_model.is_measured(call, kind)
            ):
                self.unpriced.add(call.operator)
        return self.known[key]


def readers_of(captured: Captured) -> dict[str, tuple[str, ...]]:
    """By node, the nodes to whose device its value must go.

    A node that makes only a number out of a tensor (a size) moves nothing, and neither does a
    number. A leaf module's call reads the shared parameters that it uses.
    """
    readers: dict[str, dict[str, None]] = {}
    for node in captured.graph.nodes:
        if node.op == "output" or _makes_number(captured.nodes[node.name]):
            continue
        sources = [source.name for source in node.all_input_nodes]
        for source in (*sources, *captured.nodes[node.name].shared.values()):
            if holds_tensor(captured.nodes[source].value):
                readers.setdefault(source, {})[node.name] = None
    return {source: tuple(users) for source, users in readers.items()}


def _numbers_beside_operands(captured: Captured) -> Iterator[tuple[str, str]]:
    """Numbers belong to no device; each is shown where its first operand with a device is."""
    for node in captured.graph.nodes:
        if node.op != "output" and _makes_number(captured.nodes[node.name]):
            operand = next((source.name for source in node.all_input_nodes), None)
            if operand is not None:
                yield operand, node.name


def _makes_number(info: NodeInfo) -> bool:
    return not info.mutates and not holds_tensor(info.value)


def owners_of(captured: Captured) -> dict[str, tuple[str, ...]]:
    """The nodes that own each parameter, buffer and constant that is used, by its every name."""
    return {
        alias: tuple(nodes)
        for name, nodes in _owners(captured).items()
        for alias in (captured.state[name].names if name in captured.state else (name,))
    }


def _owners(captured: Captured) -> dict[str, list[str]]:
    owners: dict[str, dict[str, None]] = {}
    for name, info in captured.nodes.items():
        for state in info.state:
            owners.setdefault(state, {})[name] = None
    for node in captured.graph.nodes:
        if node.op == "get_attr" and node.target in captured.constants:
            owners.setdefault(str(node.target), {})[node.name] = None
    return {state: list(nodes) for state, nodes in owners.items()}


def _homes(captured: Captured) -> dict[str, tuple[str, ...]]:
    """Where each parameter, buffer and constant lives.

    What this mode does not use lives with its user in the other mode, or with the first state.
    """
    owners = _owners(captured)
    first = next(iter(owners.values()), list(captured.nodes)[:1])
    other = captured.alternate.nodes if captured.alternate is not None else {}
    elsewhere = {
        state: name
        for name, info in other.items()
        for state in info.state
        if name in captured.nodes
    }
    for state in captured.state:
        owners.setdefault(state, [elsewhere[state]] if state in elsewhere else first)
    return {state: tuple(nodes) for state, nodes in owners.items()}


def _operator_name(node: fx.Node, model: nn.Module) -> str:
    match node.op:
        case "placeholder":
            return "input"
        case "get_attr":
            return "state"
        case "call_module":
            return type(model.get_submodule(str(node.target))).__name__
        case "call_method":
            return str(node.target)
        case _:
            if node.target is python_operator.getitem:
                return "getitem"
            return str(getattr(node.target, "__name__", node.target))
