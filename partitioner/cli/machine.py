"""Commands that ask this machine: `measure` and `devices`."""

from __future__ import annotations

import click

from cost_models import MeasuredCostModel, local_device
from partitioner.capture import example_call
from partitioner.cli.console import counted, steps, warn
from partitioner.cli.group import Talking
from partitioner.cli.options import (
    adapted,
    call_options,
    given_call,
    mode_option,
    model_options,
    output_option,
)
from partitioner.errors import SpecError
from partitioner.loading import load_model
from partitioner.machine import inventory, measure_links, surveyed
from partitioner.options import mode_of
from partitioner.report import write_whole
from partitioner.spec import is_host


@click.command(cls=Talking)
@click.argument("model")
@click.option(
    "--device", default="cpu", show_default=True, help="Of this machine: 'cpu', 'cuda:0', ..."
)
@model_options
@call_options
@mode_option("as the model is")
@click.option("--add-to", metavar="TIMES", help="Measure only what is not in there; write both.")
@output_option()
def measure(
    model: str,
    device: str,
    input_texts: tuple[str, ...],
    inputs: str | None,
    dtype: str | None,
    checkpoints: tuple[str, ...],
    mode: str | None,
    add_to: str | None,
    output: str | None,
) -> str | None:
    """Time the operators of MODEL on a device of this machine, each distinct one once.

    The times serve any model with equal operators: partitioner plan ... --cost-model TIMES.
    Ctrl-C ends it with the times so far.

    \b
    partitioner measure examples.seqnet:model --device cuda:0 -o times.json
    partitioner plan examples.seqnet:model --devices 2xa100-40gb --cost-model times.json
    """
    if local_device(device) is None:
        raise SpecError(f"there is no device '{device}' in this machine to measure on")
    cost_model = MeasuredCostModel() if add_to is None else MeasuredCostModel.load(add_to)
    args, kwargs = given_call(input_texts, inputs) or (None, None)
    original = adapted(load_model(model), dtype, checkpoints)
    original.train(mode_of(original, mode) == "train")
    args, kwargs = example_call(original, args, kwargs)
    known = _times(cost_model)
    with counted() as progress:
        try:
            cost_model.measure(original, device, args, example_kwargs=kwargs, progress=progress)
        except KeyboardInterrupt:
            if _times(cost_model) == known:
                raise
            warn("interrupted: these are the times so far; --add-to measures what is missing")
    for signature, why in cost_model.skipped.items():
        warn(f"'{signature.partition('(')[0]}' was not measured: {why}")
    text = cost_model.to_json()
    if output is None:
        return text
    write_whole(output, text.encode())
    return None


def _times(cost_model: MeasuredCostModel) -> int:
    return sum(map(len, cost_model.measurements.values()))


@click.command(cls=Talking)
@click.option("--measure", is_flag=True, help="Measure every link and check what arrives.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bytes that are sent.")
@output_option()
def devices(measure: bool, seed: int, output: str | None) -> str | None:
    """Tell what is in this machine, as a cluster file.

    GPUs with their kinds and memory, and the links between them as CUDA and nvidia-smi tell of
    them, or as they are measured. Links over which copies arrive changed are marked as broken.

    \b
    partitioner devices --measure -o cluster.toml
    partitioner plan examples.seqnet:model --devices cluster.toml
    """
    found = inventory()
    if measure:
        gpus = [name for name in found.cluster.names if not is_host(name)]
        if not gpus:
            raise SpecError(
                "there is no GPU that PyTorch can see, and so no link to measure; without "
                "--measure, 'partitioner devices' tells what is there"
            )
        with steps() as progress:
            found = surveyed(found, measure_links(gpus, seed=seed, progress=progress))
    for warning in found.warnings:
        warn(warning)
    text = found.to_toml()
    if output is None:
        return text
    write_whole(output, text.encode())
    return None
