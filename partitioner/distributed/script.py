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

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from partitioner import Plan
from partitioner.distributed import reporting_faults, resume_checkpoint, save_checkpoint
from partitioner.loading import load_model

REPLICAS, RANKS = @REPLICAS@, @RANKS@


def batch():
    """Put your data here: the whole batch of one replica, equal on all its ranks."""
    return (@ARGS@), {@KWARGS@}


def main(options):
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    patience = timedelta(seconds=options.timeout + 60)  # so that the message below comes first
    dist.init_process_group("nccl" if gpu else "gloo", timeout=patience)
    plan = Plan.load(@PLAN@)
    with reporting_faults(plan.pipeline, options.timeout):
        train(plan, device, options)
    dist.destroy_process_group()


def train(plan, device, options):
    if dist.get_world_size() != REPLICAS * RANKS:
        raise SystemExit(f"start {REPLICAS * RANKS} processes, not {dist.get_world_size()}")
    mesh = init_device_mesh(
        device.type, (REPLICAS, RANKS), mesh_dim_names=("replica", "pipeline")
    )
    ranks, replicas = mesh.get_group("pipeline"), mesh.get_group("replica")
    with torch.device("meta" if options.weights else "cpu"):
        model = load_model("@MODEL@", seed=0)  # equal in every process
    pipeline = plan.pipeline_rank(
        model, device, group=ranks, replicas=replicas, checkpoint=options.weights
    )
    pipeline.train()
    optimizer = torch.optim.AdamW([{"params": pipeline.parameters()}], lr=1e-3)  # maybe none
    done = resume_checkpoint(options.folder, pipeline, optimizer)
    for step in range(done, options.steps):
        torch.manual_seed(1000 * step + mesh.get_local_rank("replica"))  # as without interruption
        args, kwargs = batch()
        losses = []
        pipeline.zero_grad()
        pipeline.step(*args, losses=losses, **kwargs)  # all micro-batches; averages over replicas
        optimizer.step()
        if losses:  # on the last rank
            loss = sum(losses) / len(losses) / REPLICAS
            dist.all_reduce(loss, group=replicas)
            if mesh.get_local_rank("replica") == 0:
                print(f"step {step}: loss {float(loss):.6f}", flush=True)
        if options.every and (step + 1) % options.every == 0:
            save_checkpoint(options.folder, step + 1, pipeline, optimizer)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--timeout", type=float, default=120, help="seconds that a rank may hang")
    parser.add_argument("--weights", help="a checkpoint of the model, to begin with")
    parser.add_argument("--folder", default="checkpoints", help="of this run's own checkpoints")
    parser.add_argument("--every", type=int, default=0, help="steps between checkpoints; 0: none")
    main(parser.parse_args())
'''
