"""`Priced`: a recorded model with its costs on a cluster, as planning and comparing need it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from partitioner.capture import Captured, capture
from partitioner.dry_run import MeasuredMemory, dry_run, largest
from partitioner.generation import rehearsed_generation, with_cache
from partitioner.graph import CostGraph, annotate
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
    """

    model: nn.Module
    call: Call
    captured: Captured
    cluster: Cluster
    options: Options
    graph: CostGraph

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
        """The same recording on another cluster, or under other options of the same mode."""
        cluster, options = cluster or self.cluster, options or self.options
        return _priced(self.model, self.call, self.captured, cluster, options)


def priced(model: nn.Module, cluster: Cluster, call: Call, options: Options) -> Priced:
    """Record `model` with an example call and price it on `cluster`."""
    args, kwargs = call
    options.say("recording the model")
    captured = capture(model, args, kwargs, training=options.training)
    return _priced(model, call, captured, cluster, options)


def _priced(
    model: nn.Module, call: Call, captured: Captured, cluster: Cluster, options: Options
) -> Priced:
    options.say(f"pricing {len(captured.nodes)} nodes on {len(cluster.devices)} devices")
    graph = annotate(
        captured,
        model,
        cluster,
        options.cost_model,
        training=options.training,
        optimizer=options.make_optimizer,
        loss=options.loss_function,
    )
    if options.cache_tokens is not None:
        graph = with_cache(graph, captured, options.cache_tokens)
    return Priced(model, call, captured, cluster, options, graph)
