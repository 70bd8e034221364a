"""`Plan`: the plan document and everything that can be done with it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
import networkx as nx
import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from partitioner.capture import (
    Captured,
    Program,
    capture,
    captured_of,
    example_of,
    named_tensors,
    records,
)
from partitioner.checkpoint import Checkpoint, match, open_checkpoint
from partitioner.distributed import LocalPipeline, PipelineLayout
from partitioner.emit import PlacedModule, device_map, place, source, split_points
from partitioner.errors import PlanError
from partitioner.graph import StagePart, split_stages
from partitioner.placement import PipelineRecord, PlanDocument
from partitioner.report import (
    Difference,
    difference,
    draw,
    explain,
    html,
    network,
    plan_table,
    svg,
    write_whole,
)
from partitioner.virtual import suspended

if TYPE_CHECKING:
    from torch.distributed.pipelining import SplitPoint

    from partitioner.distributed import RankPipeline

SMALL_NBYTES = 64 * 1024
"""Tensors up to this size are read by all ranks, to compare their checkpoints."""


class Plan(PlanDocument, frozen=True):
    """Where every node, parameter and transfer goes, and how good that is. Immutable.

    Made by `partitioner.plan` or read from a file; a versioned JSON document that is byte-identical
    for identical input. Nothing in it is ever executed.
    """

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a plan.

        Raises:
            PlanError: the file is missing, damaged or foreign; the message has the line or key.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"cannot read the plan '{os.fspath(path)}': {error}") from error
        try:
            return cls.from_json(text)
        except PlanError as error:
            raise PlanError(f"'{os.fspath(path)}': {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON, whole or not at all."""
        write_whole(path, self.to_json().encode())

    def apply(
        self,
        model: nn.Module,
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        strict: bool = True,
    ) -> PlacedModule:
        """Place `model` as planned; the original is not modified.

        Each parameter and buffer is copied straight to its device.

        Args:
            model: the planned one; with a checkpoint it may be on `meta`.
            checkpoint: the weights, one tensor in host memory at a time: a `.safetensors` file, a
                file of `torch.save`, the index of a sharded one, or a folder with one of these or
                of `torch.distributed.checkpoint`. Nothing in it is ever executed.
            strict: as of `load_state_dict`; where false, what the checkpoint lacks is the model's.

        Raises:
            PlanError: `model` is not the planned one; the message names the first differences.
            CheckpointError: the checkpoint is damaged, or not of this model; nothing was placed.
        """
        opened = None if checkpoint is None else open_checkpoint(checkpoint)
        with suspended():
            captured = self._capture(model)
        data = {} if opened is None else match(model, opened, strict=strict)
        return place(model, captured, self.placement, plan=self, detours=self.detours, data=data)

    def source(self) -> str:
        """The placed model as a self-contained, readable Python module.

        Its class gives the same outputs when it is loaded with the model's `state_dict`.
        """
        return source(self, self.detours)

    def draw(self, path: str | os.PathLike[str], what: str | None = None) -> None:
        """Draw the plan, by the file's suffix.

        Args:
            path: `.svg`, `.png`, `.pdf`, `.dot` or `.graphml` for the graph, `.html` for a page
                with all of it, `.json` for a trace that Perfetto opens.
            what: `"graph"`, `"timeline"`, `"memory"`, `"page"`, or `"overlay"` and
                `"overlay-time"` for Model Explorer; `None` is the usual one for the suffix.

        Raises:
            SpecError: there is no such drawing with that suffix, or the plan is of an older
                version and lacks what is drawn.
        """
        draw(self, path, what)

    def graph(self) -> nx.DiGraph[str]:
        """The planned graph: devices, seconds and bytes as attributes of nodes and edges."""
        return network(self)

    def device_map(self) -> dict[str, str]:
        """The placement in Hugging Face accelerate's form.

        Raises:
            PlanError: a module is split inside, which that form cannot say; the message names it.
        """
        return device_map(self)

    def split_points(self) -> dict[str, SplitPoint]:
        """The stages as the `split_spec` of `torch.distributed.pipelining.pipeline`.

        Raises:
            PlanError: the plan is for no pipeline, or a stage begins inside a module; the message
                names it.
        """
        return split_points(self.program, self._pipeline().stages)

    def stages(self) -> tuple[StagePart, ...]:
        """The stages of a pipeline's plan: their nodes, inputs, wires and parameters.

        Raises:
            PlanError: the plan is for no pipeline.
        """
        return split_stages(captured_of(self.program), self._pipeline().stages)

    def pipeline_on(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        devices: Sequence[str | torch.device] | None = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        strict: bool = True,
    ) -> LocalPipeline:
        """The pipeline on the GPUs of this process.

        Args:
            model: the planned one; not modified. With a checkpoint it may be on `meta`.
            loss_fn: of what the model returns for a micro-batch and its target, a mean over the
                micro-batch; without one, the scalar that the model itself returns.
            devices: by rank; `None` takes those of the plan.
            checkpoint: the weights, as for `apply`.
            strict: as for `apply`.

        Raises:
            PlanError: the plan is for no pipeline, or for another model.
            CheckpointError: the checkpoint is damaged, or not of this model.
        """
        opened = None if checkpoint is None else open_checkpoint(checkpoint)
        layout = self._layout(model)
        data = {} if opened is None else match(model, opened, strict=strict)
        return LocalPipeline(model, layout, devices or self._pipeline().ranks, loss_fn, data)

    def pipeline_rank(
        self,
        model: nn.Module,
        device: str | torch.device,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        group: ProcessGroup | None = None,
        *,
        replicas: ProcessGroup | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        strict: bool = True,
    ) -> RankPipeline:
        """This process's part of the pipeline, one rank of those that `torchrun` started.

        Args:
            model: the planned one, equal in every process; not modified. With a checkpoint it may
                be on `meta`.
            device: of this process.
            loss_fn: as for `pipeline_on`.
            group: the pipeline's processes; `None` is the default group.
            replicas: the processes that have this one's stages in other copies of the pipeline,
                which train on other data: each step averages the gradients over them.
            checkpoint: the weights, as for `apply`; a process reads only those of its own stages.
            strict: as for `apply`.

        Raises:
            PlanError: the plan is for no pipeline, for another model or number of processes, or
                the processes have different plans, models, checkpoints or versions.
            CheckpointError: the checkpoint is damaged, or not of this model.
        """
        from partitioner.distributed import RankPipeline  # takes seconds

        opened = None if checkpoint is None else open_checkpoint(checkpoint)
        layout = self._layout(model)
        data = {} if opened is None else match(model, opened, strict=strict)
        identity = {
            "plan": hashlib.sha256(self.to_json().encode()).hexdigest()[:16],
            "model": _digest(model),
            "checkpoint": "none" if opened is None else _digest_of_file(opened),
            "partitioner": version("partitioner"),
            "torch": torch.__version__,
        }
        return RankPipeline(
            model, layout, device, loss_fn, group, replicas, identity=identity, data=data
        )

    def changes_from(self, old: Plan) -> Difference:
        """What moved since `old`, a plan of the same model or of a similar one, and its price."""
        return difference(old, self)

    def explain(self) -> str:
        """Why the plan is like this, in a screenful."""
        return explain(self)

    def __str__(self) -> str:
        return plan_table(self)

    def _repr_svg_(self) -> str:
        return svg(self)

    def _repr_html_(self) -> str:
        return html(self)

    def _pipeline(self) -> PipelineRecord:
        if self.pipeline is None:
            raise PlanError(
                "this plan is for no pipeline; plan with micro_batches=... of more than 1 and "
                "objective='throughput'"
            )
        return self.pipeline

    def _layout(self, model: nn.Module) -> PipelineLayout:
        record = self._pipeline()
        with suspended():
            captured = self._capture(model)
        return PipelineLayout.of(
            captured, record.stages, record.schedule, record.micro_batches, record.stages_per_rank
        )

    def _capture(self, model: nn.Module) -> Captured:
        self._compare_state(model)
        args, kwargs = example_of(self.inputs)
        captured = capture(model, args, kwargs, training=self.mode == "train")
        planned, found = _comparable(self.program), _comparable(records(captured))
        if found != planned:
            raise PlanError(_difference("node", _texts(planned), _texts(found)))
        return captured

    def _compare_state(self, model: nn.Module) -> None:
        found = {
            held.names[0]: f"{held.role} {list(held.tensor.shape)} {str(held.tensor.dtype)[6:]}"
            for held in named_tensors(model)
        }
        planned = {
            state.names[0]: f"{state.role} {list(state.tensor.shape)} {state.tensor.dtype}"
            for state in self.model.state
        }
        if found != planned:
            raise PlanError(_difference("tensor", planned, found))


def _digest(model: nn.Module) -> str:
    """A short text that differs where parameters or buffers do."""
    digest = hashlib.sha256()
    for held in named_tensors(model):
        digest.update(f"{held.names[0]} {list(held.tensor.shape)} {held.tensor.dtype}".encode())
        if held.tensor.numel() and not held.tensor.is_meta:
            data = held.tensor.detach().to(torch.float64)
            digest.update(f"{float(data.sum())!r} {float(data.abs().max())!r}".encode())
    return digest.hexdigest()[:16]


def _digest_of_file(checkpoint: Checkpoint) -> str:
    """A short text that differs where names, sizes or the data of small tensors do."""
    digest = hashlib.sha256()
    for key, stored in sorted(checkpoint.tensors.items()):
        digest.update(f"{key} {list(stored.shape)} {stored.dtype}".encode())
        if stored.nbytes <= SMALL_NBYTES:
            digest.update(stored.read().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _comparable(program: Program) -> Program:
    """The program without what may differ: where the model's class is defined."""
    alternate = None if program.alternate is None else _comparable(program.alternate)
    return msgspec.structs.replace(program, model_class="", alternate=alternate)


def _texts(program: Program) -> dict[str, str]:
    """A line for each node, then one for each further part of the program, by name."""
    parts = {name: repr(getattr(program, name)) for name in program.__struct_fields__}
    nodes = {node.name: repr(msgspec.structs.replace(node, line="")) for node in program.nodes}
    return {**nodes, **{name: text for name, text in parts.items() if name != "nodes"}}


def _difference(what: str, planned: Mapping[str, str], found: Mapping[str, str]) -> str:
    """The first few differences between two mappings of names to descriptions."""
    lines = []
    for name in [*planned, *(name for name in found if name not in planned)]:
        if name not in found:
            lines.append(f"{what} '{name}' is planned but not in the model")
        elif name not in planned:
            lines.append(f"{what} '{name}' is in the model but not planned")
        elif planned[name] != found[name]:
            lines.append(f"{what} '{name}' is {found[name]}, planned was {planned[name]}")
    shown = "; ".join(lines[:3]) + (f"; and {len(lines) - 3} more" if len(lines) > 3 else "")
    return f"the plan was made for another model: {shown}. Plan again for this model."
