"""`Plan`: the plan document and everything that can be done with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import msgspec
from torch import nn

from partitioner.capture import Captured, Program, capture, example_of, named_tensors, records
from partitioner.checkpoint import match, open_checkpoint
from partitioner.emit import PlacedModule, device_map, place, source
from partitioner.errors import PlanError
from partitioner.placement import PlanDocument
from partitioner.report import draw, explain, html, plan_table, svg, write_whole
from partitioner.virtual import suspended


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
        return place(model, captured, self.placement, plan=self, data=data)

    def source(self) -> str:
        """The placed model as a self-contained, readable Python module.

        Its class gives the same outputs when it is loaded with the model's `state_dict`.
        """
        return source(self)

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draw the partition graph; `.svg`, `.png`, `.dot` or `.html` by suffix."""
        draw(self, path)

    def device_map(self) -> dict[str, str]:
        """The placement in Hugging Face accelerate's form.

        Raises:
            PlanError: a module is split inside, which that form cannot say; the message names it.
        """
        return device_map(self)

    def explain(self) -> str:
        """Why the plan is like this, in a screenful."""
        return explain(self)

    def __str__(self) -> str:
        return plan_table(self)

    def _repr_svg_(self) -> str:
        return svg(self)

    def _repr_html_(self) -> str:
        return html(self)

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
