"""`training_script`: a training loop for `torchrun`, to be read and changed."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from partitioner.capture import Inputs, example_of
from partitioner.distributed.layout import whole_batch
from partitioner.errors import PlanError
from partitioner.placement import PipelineRecord


def training_script(
    record: PipelineRecord,
    inputs: Inputs,
    plan_file: str | os.PathLike[str],
    model: str,
    replicas: int = 1,
) -> str:
    """The script.

    Args:
        record: the pipeline of the plan.
        inputs: the call of one micro-batch.
        plan_file: path of the plan, as the script shall open it.
        model: `package.module:name` of a class or function that gives the model.
        replicas: how many copies of the pipeline train together.

    Raises:
        PlanError: `model` is not of that form.
    """
    module, colon, name = model.partition(":")
    if not (colon and module and name.replace(".", "").isidentifier()):
        raise PlanError(f"'{model}' is not of the form package.module:name")
    args, kwargs = whole_batch(*example_of(inputs), record.micro_batches)
    values = {
        "@PROCESSES@": str(len(record.ranks) * replicas),
        "@RANKS@": str(len(record.ranks)),
        "@REPLICAS@": str(replicas),
        "@PLAN@": repr(os.fspath(plan_file)),
        "@MODEL@": model,
        "@ARGS@": "".join(f"{_text(value)}, " for value in args).rstrip(),
        "@KWARGS@": ", ".join(f"{k!r}: {_text(v)}" for k, v in kwargs.items()),
    }
    text = _TEMPLATE
    for key, value in values.items():
        text = text.replace(key, value)
    return text


def _text(value: Any) -> str:
    """Python that makes a value like this one."""
    if isinstance(value, Tensor):
        shape = list(value.shape)
        if value.dtype == torch.bool:
            return f"torch.ones({shape}, dtype=torch.bool)"
        if value.is_floating_point() or value.is_complex():
            return f"torch.randn({shape}, dtype={value.dtype})"
        return f"torch.randint(2, {shape}, dtype={value.dtype})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    if type(value) is tuple:
        return "(" + "".join(f"{_text(item)}, " for item in value) + ")"
    return repr(value)


_TEMPLATE = '''"""Train @MODEL@ as a pipeline:

    torchrun --nproc-per-node @PROCESSES@ train_pipeline.py
"""

import argparse
import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions, get_state_dict, set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh

from partitioner import Plan
from partitioner.distributed import reporting_faults
from partitioner.loading import load_model

REPLICAS, RANKS = @REPLICAS@, @RANKS@
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def batch(step, replica):
    """Put your data here: the whole batch of one replica, equal on all its ranks."""
    torch.manual_seed(1000 * step + replica)
    return (@ARGS@), {@KWARGS@}


def main(steps, folder, every, timeout):
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    dist.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(seconds=timeout + 60))
    plan = Plan.load(@PLAN@)
    with reporting_faults(plan.pipeline, timeout):
        train(plan, device, steps, folder, every)
    dist.destroy_process_group()


def train(plan, device, steps, folder, every):
    if dist.get_world_size() != REPLICAS * RANKS:
        raise SystemExit(f"start {REPLICAS * RANKS} processes, not {dist.get_world_size()}")
    mesh = init_device_mesh(
        device.type, (REPLICAS, RANKS), mesh_dim_names=("replica", "pipeline")
    )
    replica = mesh.get_local_rank("replica")
    model = load_model("@MODEL@", seed=0)  # equal in every process
    pipeline = plan.pipeline_rank(model, device, group=mesh.get_group("pipeline"))
    pipeline.train()
    parts = [
        (stage, torch.optim.AdamW(stage.parameters(), lr=1e-3))
        for stage in pipeline.stages
        if any(True for _ in stage.parameters())
    ]
    done = resume(parts, folder)
    for step in range(done, steps):
        args, kwargs = batch(step, replica)
        losses = []
        pipeline.zero_grad()
        pipeline.step(*args, losses=losses, **kwargs)  # forwards and backwards of all micro-batches
        if REPLICAS > 1:
            average_gradients(pipeline, mesh.get_group("replica"))
        for _, optimizer in parts:
            optimizer.step()
        if losses:  # on the last rank
            loss = sum(losses) / len(losses)
            if REPLICAS > 1:
                dist.all_reduce(loss, group=mesh.get_group("replica"))
            if replica == 0:
                print(f"step {step}: loss {float(loss) / REPLICAS:.6f}", flush=True)
        if every and (step + 1) % every == 0:
            checkpoint.save(state_of(parts), checkpoint_id=Path(folder, f"step-{step + 1:08d}"))


def average_gradients(pipeline, group):
    for parameter in pipeline.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad, group=group)
            parameter.grad /= REPLICAS


def state_of(parts):
    """Tensors by the names of the whole model: any number of stages can read them."""
    state = {"model": {}, "optimizer": {}}
    for stage, optimizer in parts:
        model, optim = get_state_dict(stage, optimizer, options=FLAT)
        state["model"].update(model)
        state["optimizer"].update(optim)
    return state


def resume(parts, folder):
    """Take the last whole checkpoint; its number of steps."""
    whole = sorted(path.parent for path in Path(folder).glob("step-*/.metadata"))
    if not whole:
        return 0
    state = state_of(parts)
    checkpoint.load(state, checkpoint_id=whole[-1])
    for stage, optimizer in parts:
        set_state_dict(
            stage, optimizer, options=FLAT,
            model_state_dict={name: state["model"][name] for name in stage.state_dict()},
            optim_state_dict=state["optimizer"],
        )
    return int(whole[-1].name.removeprefix("step-"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--timeout", type=float, default=120, help="seconds that a rank may hang")
    parser.add_argument("--folder", default="checkpoints")
    parser.add_argument("--every", type=int, default=0, help="steps between checkpoints; 0: none")
    options = parser.parse_args()
    main(options.steps, options.folder, options.every, options.timeout)
'''
