"""The names and signatures that scripts of other people call."""

from __future__ import annotations

import inspect

import pytest

import cost_models
import partitioner

KEYWORDS = [
    "example_kwargs",
    "mode",
    "optimizer",
    "objective",
    "constraints",
    "cost_model",
    "memory",
    "micro_batches",
    "time_limit",
    "seed",
    "progress",
]


@pytest.mark.parametrize(
    "name",
    [
        "partition",
        "plan",
        "Plan",
        "PlacedModule",
        "Cluster",
        "Device",
        "Link",
        "Pin",
        "Colocate",
        "Separate",
        "Contiguous",
        "virtual_gpus",
        "PartitionerError",
        "CaptureError",
        "SpecError",
        "InfeasibleError",
        "SolverError",
        "PlanError",
    ],
)
def test_the_package_offers(name: str) -> None:
    assert name in partitioner.__all__
    assert hasattr(partitioner, name)


@pytest.mark.parametrize("name", ["CostModel", "RooflineCostModel", "DEVICE_KINDS"])
def test_cost_models_offers(name: str) -> None:
    assert hasattr(cost_models, name)


@pytest.mark.parametrize("function", [partitioner.plan, partitioner.partition])
def test_signatures(function: object) -> None:
    parameters = inspect.signature(function).parameters  # type: ignore[arg-type]
    positional = [n for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    keywords = [n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    assert positional == ["model", "devices", "example_inputs"]
    assert keywords[: len(KEYWORDS)] == KEYWORDS
    assert parameters["objective"].default == "latency"


@pytest.mark.parametrize(
    "error", ["CaptureError", "SpecError", "InfeasibleError", "SolverError", "PlanError"]
)
def test_every_error_has_one_root(error: str) -> None:
    assert issubclass(getattr(partitioner, error), partitioner.PartitionerError)
