"""Placements of one model side by side, under one cost model and one rehearsal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from partitioner.capture import Captured
from partitioner.device_maps import DeviceMap
from partitioner.errors import PlanError
from partitioner.options import Options
from partitioner.placement import (
    PlanDocument,
    bottleneck_seconds,
    infer_placement,
    objective_value,
    peak_nbytes,
    step_seconds,
    transfers,
)
from partitioner.priced import Call, priced
from partitioner.report import ComparisonRow
from partitioner.spec import Cluster, device_name, hint
from partitioner.virtual import suspended, virtual_gpus

Placement = Mapping[str, str]
Candidate = PlanDocument | DeviceMap | Mapping[str, str]


def compare(
    model: nn.Module,
    candidates: Mapping[str, Candidate],
    call: Call,
    cluster: Cluster,
    options: Options,
) -> list[ComparisonRow]:
    """What each placement of `model` costs on `cluster`.

    Args:
        model: that all candidates place; never modified.
        candidates: by name, a plan, a device map of accelerate, or the devices of a hand-split
            model's state (see `state_devices`); of these two the placement of every node is
            inferred.
        call: the example call's arguments and keyword arguments.
        cluster: whose devices, links and limits count for all.
        options: whose objective judges the candidates.

    Raises:
        PlanError: a plan is for another model or other devices, or a hand-split model has other
            state.
    """
    with suspended():
        subject = priced(model, cluster, call, options)
        captured, graph = subject.captured, subject.graph
        rows = []
        for name, candidate in candidates.items():
            placement = _placement(name, candidate, captured, cluster)
            measured = subject.rehearsed(placement)
            peaks = peak_nbytes(graph, placement)
            if measured is not None:
                peaks = {device: use.peak for device, use in measured.items()}
            rows.append(
                ComparisonRow(
                    name=name,
                    objective=_judged(options.objective, graph, cluster, placement, peaks),
                    step_seconds=step_seconds(graph, placement, cluster),
                    bottleneck_seconds=bottleneck_seconds(graph, placement, cluster),
                    peak_nbytes=peaks,
                    moved_nbytes=sum(t.nbytes for t in transfers(graph, placement, cluster)),
                    fits=all(
                        device.memory is None or peaks[device.name] <= int(device.memory)
                        for device in cluster.devices
                    ),
                )
            )
    return rows


def state_devices(build: Callable[[], nn.Module], cluster: Cluster) -> dict[str, str]:
    """Where a hand-split model puts its parameters and buffers, by name.

    It is built on virtual GPUs that are named as those of `cluster`, without limits.
    """
    with virtual_gpus(cluster, limits=False):
        model = build()
        state = (
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        )
        return {name: device_name(tensor.device) for name, tensor in state}


def _judged(
    objective: str, graph: Any, cluster: Cluster, placement: Placement, peaks: Mapping[str, int]
) -> float:
    """The objective, with rehearsed peaks where memory is judged."""
    if objective != "memory":
        return objective_value(graph, cluster, placement, objective)
    return max(
        (
            peaks[device.name] / int(device.memory)
            for device in cluster.devices
            if device.memory is not None
        ),
        default=0.0,
    )


def _placement(
    name: str,
    candidate: Candidate,
    captured: Captured,
    cluster: Cluster,
) -> dict[str, str]:
    """The device of every node."""
    if isinstance(candidate, PlanDocument):
        placement = dict(candidate.placement)
        _check_same(name, "node", placement, captured.nodes)
    elif isinstance(candidate, DeviceMap):
        try:
            placement = candidate.placement(captured)
        except PlanError as error:
            raise PlanError(f"'{name}': {error}") from error
    else:
        known = {n: state for state in captured.state.values() for n in state.names}
        named = {n for n, state in known.items() if state.role != "constant"}
        _check_same(name, "parameter or buffer", candidate, sorted(named))
        placement = infer_placement(captured, candidate)
    for node, device in placement.items():
        if device not in cluster.names:
            raise PlanError(
                f"'{name}' puts '{node}' on '{device}', which is not among the devices; "
                f"{hint(device, cluster.names)}"
            )
    return placement


def _check_same(name: str, what: str, given: Iterable[str], known: Iterable[str]) -> None:
    theirs, ours = list(given), list(known)
    more = [each for each in theirs if each not in set(ours)]
    missing = [each for each in ours if each not in set(theirs)]
    if more:
        raise PlanError(
            f"'{name}' places the {what} '{more[0]}', which the model does not have; "
            f"{hint(more[0], missing or ours)}"
        )
    if missing:
        raise PlanError(f"'{name}' does not place the {what} '{missing[0]}' of the model")
