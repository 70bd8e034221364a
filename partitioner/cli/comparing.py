"""The command `compare`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import click
import msgspec
from rich.console import RenderableType

from partitioner.capture import example_call, example_of
from partitioner.cli.console import steps
from partitioner.cli.group import Talking
from partitioner.cli.options import (
    adapted,
    call_options,
    cost_model_option,
    devices_option,
    given_call,
    loss_options,
    mode_option,
    model_options,
    objective_option,
    optimizer_option,
    read_cost_model,
    read_memory,
    read_targets,
)
from partitioner.compare import Candidate, state_devices
from partitioner.compare import compare as compare_placements
from partitioner.device_maps import DeviceMap, accelerate_map
from partitioner.errors import SpecError
from partitioner.loading import load_model, load_object
from partitioner.options import Options, loss_of_plan, mode_of
from partitioner.plan import Plan
from partitioner.report import comparison_renderable, difference_renderable
from partitioner.spec import Cluster, parse_nbytes


@click.command(cls=Talking)
@click.argument("model")
@click.argument("candidates", nargs=-1, metavar="PLAN_OR_HANDSPLIT...")
@model_options
@call_options
@devices_option(help="Default: those of the first plan.")
@mode_option("that of the first plan")
@optimizer_option("that of the first plan")
@loss_options
@objective_option("that of the first plan")
@click.option(
    "--max-memory",
    metavar="SIZES",
    help="And what accelerate makes of it: 'limits', '20GiB' or 'cuda:0=20GiB,cuda:1=24GiB'.",
)
@cost_model_option
def compare(
    model: str,
    candidates: tuple[str, ...],
    input_texts: tuple[str, ...],
    inputs: str | None,
    dtype: str | None,
    checkpoints: tuple[str, ...],
    devices: str | None,
    mode: str | None,
    optimizer: str | None,
    loss: str | None,
    target_texts: tuple[str, ...],
    objective: str | None,
    max_memory: str | None,
    times: str | None,
) -> RenderableType:
    """Put placements of MODEL side by side under one cost model.

    Each of PLAN_OR_HANDSPLIT is a saved plan, a device map of Hugging Face accelerate (a JSON file,
    or package.module:name of a dictionary), or package.module:name of a model that was split by
    hand, whose placement is read off its parameters.

    With two plans and no MODEL: what moved from the first to the second, and what that cost.

    \b
    partitioner compare examples.seqnet:model plan.json examples.seqnet:HandSplitSeqNet
    partitioner compare hf:config.json plan.json device_map.json --max-memory limits
    partitioner compare old.json new.json
    """
    if not candidates and max_memory is None:
        raise click.UsageError("Missing argument 'PLAN_OR_HANDSPLIT...'.")
    if Path(model).is_file() and len(candidates) == 1:
        old, new = Plan.load(model), Plan.load(candidates[0])
        return difference_renderable(new.changes_from(old), (_stem(model), _stem(candidates[0])))
    named = {name: _named(name) for name in candidates}
    plans = [found for found in named.values() if isinstance(found, Plan)]
    first = plans[0] if plans else None
    if devices is not None:
        cluster = Cluster.of(devices)
    elif first is not None:
        cluster = first.cluster.cluster()
    else:
        raise SpecError("without a plan among the candidates, say --devices")
    cost_model = read_cost_model(times, cluster)
    original = adapted(load_model(model), dtype, checkpoints)
    found: dict[str, Candidate] = {
        name: state_devices(partial(load_model, name), cluster) if candidate is None else candidate
        for name, candidate in named.items()
    }
    if max_memory is not None:
        limits = _limits(max_memory, cluster)
        found[f"accelerate, max_memory={max_memory}"] = accelerate_map(original, cluster, limits)
    args, kwargs = given_call(input_texts, inputs) or (None, None)
    if first is not None and args is None:
        args, kwargs = example_of(first.inputs)
    targets = read_targets(target_texts)
    with steps() as progress:
        options = Options(
            mode=mode_of(original, mode or (first.mode if first else None)),
            objective=objective or (first.objective if first else "latency"),
            optimizer=optimizer or (first.optimizer if first else None),
            loss=loss_of_plan(first, loss, targets) if first else loss,
            targets=None if first else targets,
            cost_model=cost_model,
            progress=progress,
        )
        call = example_call(original, args, kwargs)
        rows = compare_placements(original, found, call, cluster, options)
    return comparison_renderable(rows, options.objective)


def _named(name: str) -> Plan | DeviceMap | None:
    """The plan or device map of that name; `None` for a model that was split by hand."""
    if ":" in name and not Path(name).exists():
        found = load_object(name)
        return DeviceMap.of(found, f"'{name}'") if isinstance(found, Mapping) else None
    return DeviceMap.read(name) if _is_device_map(name) else Plan.load(name)


def _is_device_map(path: str) -> bool:
    """Whether a file holds nothing but names and devices."""
    try:
        content = msgspec.json.decode(Path(path).read_bytes(), type=dict[str, str | int])
    except (OSError, msgspec.DecodeError):
        return False
    return "schema" not in content


def _limits(max_memory: str, cluster: Cluster) -> dict[str, int]:
    """Bytes by device name, as accelerate is told."""
    if max_memory == "limits":
        return {d.name: d.memory for d in cluster.devices if isinstance(d.memory, int)}
    given = read_memory(max_memory)
    sizes = given if isinstance(given, dict) else dict.fromkeys(cluster.names, max_memory)
    return {name: parse_nbytes(size) for name, size in sizes.items()}


def _stem(path: str) -> str:
    return Path(path).name
