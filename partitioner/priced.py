"""`Priced`: a recorded model with its costs on a cluster, as planning and comparing need it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from partitioner.capture import Captured, capture
from partitioner.dry_run import MeasuredMemory, dry_run, largest
from partitioner.generation import rehearsed_generation, with_cache
from partitioner.graph import CostGraph, Rehearsals, price
from partitioner.options import Options
from partitioner.solve import Problem, formulate
from partitioner.spec import Cluster

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Priced:
    """What a model costs on a cluster.

    Attributes:
        model: as the user gave it.
        call: the example call's arguments and keyword arguments.
        captured: the recording.
        cluster: whose devices are priced.
        options: under which it was recorded and priced.
        graph: the costs of its nodes and values.
        rehearsals: of the recording.
    """

    model: nn.Module
    call: Call
    captured: Captured
    cluster: Cluster
    options: Options
    graph: CostGraph
    rehearsals: Rehearsals

    def problem(self) -> Problem:
        """The placement problem that the options ask for."""
        options = self.options
        return formulate(self.graph, self.cluster, options.objective, options.constraints)

    def rehearsed(self, placement: Mapping[str, str]) -> dict[str, MeasuredMemory] | None:
        """The bytes that each device holds under `placement`; `None` where nothing can tell."""
        model, captured, cluster = self.model, self.captured, self.cluster
        found = dry_run(
            model,
            captured,
            placement,
            cluster,
            make_optimizer=self.options.make_optimizer,
            loss=self.options.loss_function,
            call=self.call,
        )
        tokens = self.options.cache_tokens
        if found is None or tokens is None:
            return found
        generating = rehearsed_generation(model, captured, placement, cluster, tokens)
        return {
            name: replace(largest([use, generating[name]]), rehearsal=use.rehearsal)
            for name, use in found.items()
        }

    def priced_anew(
        self, *, cluster: Cluster | None = None, options: Options | None = None
    ) -> Priced:
        """The same on another cluster, or under other options with the same mode and loss."""
        cluster, options = cluster or self.cluster, options or self.options
        graph = _costs(self.rehearsals, cluster, options)
        return replace(self, cluster=cluster, options=options, graph=graph)


def priced(model: nn.Module, cluster: Cluster, call: Call, options: Options) -> Priced:
    """Record `model` with an example call and price it on `cluster`."""
    args, kwargs = call
    options.say("recording the model")
    captured = capture(model, args, kwargs, training=options.training)
    rehearsals = Rehearsals(captured, model, training=options.training, loss=options.loss_function)
    graph = _costs(rehearsals, cluster, options)
    return Priced(model, call, captured, cluster, options, graph, rehearsals)


def _costs(rehearsals: Rehearsals, cluster: Cluster, options: Options) -> CostGraph:
    captured = rehearsals.captured
    options.say(f"pricing {len(captured.nodes)} nodes on {len(cluster.devices)} devices")
    graph = price(rehearsals, cluster, options.cost_model, optimizer=options.make_optimizer)
    if options.cache_tokens is not None:
        graph = with_cache(graph, captured, options.cache_tokens)
    return graph
