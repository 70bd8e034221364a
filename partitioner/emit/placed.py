"""`place`: a copy of the model whose parts live and run where a placement says.

The copy is made by one pass over the original's tensors, each copied straight to its device. Its
class is derived from the original's, so that methods, hooks, `state_dict` and train/eval stay; only
`forward` is new.
"""

from __future__ import annotations

import inspect
import itertools
import linecache
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn

from partitioner.capture.captured import Captured
from partitioner.capture.clone import clone, named_tensors
from partitioner.emit.following import Gathering, following_generate
from partitioner.emit.forward import Forward, constant_name, original_class, write_forward
from partitioner.emit.graphs import check_placement, listed, spelled_device
from partitioner.emit.hooks import warn_of_unheard_hooks
from partitioner.emit.modes import both_modes, placement_of_state
from partitioner.emit.moves import Detours
from partitioner.errors import PlanError
from partitioner.placement import owned_state

_numbers = itertools.count()


@dataclass(frozen=True)
class Placing:
    """What the class of a placed module holds.

    Attributes:
        forward: its text, the objects that the text names, graphs and output devices.
        plan: the plan that was applied, if any.
    """

    forward: Forward
    plan: Any = None


class _Own:
    """An attribute of a placed module that gives way to the original's of the same name."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self.read = read

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        for held in (instance._parameters, instance._buffers, instance._modules):
            if self.name in held:
                return held[self.name]
        return self.read(instance)


class _Staying:
    """A conversion of tensors that leaves each on its device; `meta`, which frees them, is let."""

    def __init__(self, convert: Callable[[Tensor], Tensor]) -> None:
        self.convert = convert
        self.declined: dict[str, None] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        probe = self.convert(tensor.new_empty(0))
        if probe.device in (tensor.device, torch.device("meta")):
            return self.convert(tensor)
        self.declined[f"from '{tensor.device}' to '{probe.device}'"] = None
        return tensor.to(probe.dtype)

    def warn(self) -> None:
        if self.declined:
            warnings.warn(
                f"a placed module stays where its plan put it: nothing moved {self._moves()}; its "
                "`state_dict` can be loaded into the original or another placement",
                stacklevel=4,
            )

    def _moves(self) -> str:
        return ", ".join(self.declined)


class PlacedModule(nn.Module):
    """A model that is spread over devices.

    It has the original's class among its bases, and so its methods, its `state_dict` keys, its
    hooks and its train/eval mode. Where the original has an attribute of the same name as one of
    those below, the original's is kept. `.to` and its kin convert types and leave devices alone,
    since `forward` counts on where each part is.

    Attributes:
        plan: the plan that was applied; `None` for a placement made by hand.
        code: the text of `forward`, with its `.to(...)` calls.
        graph: what `forward` computes in the current mode, as a `torch.fx` graph with its moves.
        output_devices: names of the devices of the output's tensors, in order.
    """

    _placing: Placing
    _original: type[nn.Module]

    plan: Any = _Own(lambda module: module._placing.plan)
    code: str = _Own(lambda module: module._placing.forward.code)  # type: ignore[assignment]
    graph: fx.Graph = _Own(  # type: ignore[assignment]
        lambda module: module._placing.forward.mode(module.training).graph
    )
    output_devices: tuple[str, ...] = _Own(  # type: ignore[assignment]
        lambda module: module._placing.forward.mode(module.training).output_devices
    )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """What `.to`, `.cuda`, `.half` and the like do: types change, devices stay as planned."""
        staying = _Staying(fn)
        super()._apply(staying, recurse)  # type: ignore[no-untyped-call]
        staying.warn()
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Rebuild the class, which has no name to be found by, from the original's."""
        made: Any = super().__reduce_ex__(protocol)
        constructor, (_, *rest), *state = made
        return _rebuilt, (constructor, self._original, self._placing, *rest), *state


def place(
    model: nn.Module,
    captured: Captured,
    placement: Mapping[str, str],
    *,
    plan: Any = None,
    detours: Detours | None = None,
    data: Mapping[str, Callable[[], Tensor]] = MappingProxyType({}),
) -> PlacedModule:
    """Place `model` on devices. The original is not modified.

    Args:
        model: the recorded model.
        captured: its recording.
        placement: device name by node name, for every node but `output`; from a solver or by hand.
        plan: to be found as the result's `.plan`.
        detours: the host over which data is moved, by source and destination, where the link
            between them is broken.
        data: by canonical name, what reads the data of a tensor that does not come from `model`;
            called once, just before the tensor goes to its device.

    Raises:
        PlanError: the placement does not fit the recording, or a parameter has no data.
    """
    check_placement(captured, placement)
    _check_data(model, data)
    recordings, placements = both_modes(captured, placement)
    homes = placement_of_state(captured, placement)
    forward = write_forward(model, recordings, placements, detours)
    first = next(iter(homes.values()), next(iter(placement.values()), "cpu"))

    def moved(tensor: Tensor, name: str) -> Tensor:
        source = data[name]() if name in data else tensor
        return copied(tensor, name, homes.get(name, first), source, detours)

    placed = clone(model, moved)
    vars(placed).pop("forward", None)
    for training, recording in recordings.items():
        where = owned_state(recording, placements[training])
        for name, tensor in recording.constants.items():
            vars(placed)[constant_name(name, recording)] = copied(
                tensor, name, where[name], detours=detours
            )
    if "" in captured.opaque and len({*placement.values()}) > 1:
        _gather(placed, captured, placement)
    warn_of_unheard_hooks(placed, recordings, forward)
    placed.__class__ = _placed_class(original_class(model), Placing(forward, plan))
    assert isinstance(placed, PlacedModule)
    return placed


def _gather(placed: nn.Module, captured: Captured, placement: Mapping[str, str]) -> None:
    """Have the parts that are called whole bring their arguments to their devices."""
    for node in captured.graph.nodes:
        path = str(node.target)
        if node.op == "call_module" and path and path in captured.opaque:
            hook = Gathering(torch.device(spelled_device(placement[node.name])))
            part = placed.get_submodule(path)
            part.register_forward_pre_hook(hook, prepend=True, with_kwargs=True)


def _check_data(model: nn.Module, data: Mapping[str, Any]) -> None:
    """Refuse a model that has no data, before anything is placed."""
    bare = [
        held.names[0]
        for held in named_tensors(model)
        if held.tensor.is_meta and held.names[0] not in data
    ]
    if bare:
        raise PlanError(_without_data(bare))


def _without_data(names: Sequence[str]) -> str:
    verb = "has" if len(names) == 1 else "have"
    return (
        f"{listed('tensor', names)} of the model on 'meta' {verb} no data; give "
        "`plan.apply(model, checkpoint=...)` their file, or materialise the model first, as by "
        "`model.to_empty(device='cpu')` and `model.load_state_dict(...)`"
    )


def copied(
    tensor: Tensor,
    name: str,
    device: str,
    source: Tensor | None = None,
    detours: Detours | None = None,
) -> Tensor:
    """A copy of a parameter, buffer or constant, straight on its device.

    Args:
        tensor: what it is.
        name: its canonical name.
        device: where the copy is to be.
        source: its data, where that does not come from `tensor`.
        detours: see `place`.
    """
    source = tensor if source is None else source
    if source.is_meta and torch.device(device).type != "meta":
        raise PlanError(_without_data([name]))
    with torch.no_grad():
        host = (detours or {}).get((str(source.device), device))
        data = source.detach() if host is None else source.detach().to(host)
        data = data.to(device, tensor.dtype, copy=True)
    if issubclass(type(tensor), nn.Parameter):
        made: Tensor = type(tensor)._make_subclass(type(tensor), data, tensor.requires_grad)
    elif isinstance(tensor, nn.Parameter):
        made = nn.Parameter(data, requires_grad=tensor.requires_grad)
    else:
        made = data.requires_grad_(tensor.requires_grad)
    if type(tensor) in (Tensor, nn.Parameter):
        vars(made).update(vars(tensor))
    return made


def _placed_class(original: type[nn.Module], placing: Placing) -> type[PlacedModule]:
    """The class of one placed model: the original's, with another `forward`."""
    base: type[nn.Module] = nn.Module if issubclass(original, fx.GraphModule) else original
    name = original.__name__
    forward = _compiled(placing.forward, name)
    given = getattr(original, "forward", None)
    forward.__doc__ = getattr(given, "__doc__", None)
    if given is not None and base is not nn.Module:
        forward.__signature__ = inspect.signature(given)  # type: ignore[attr-defined]
    own = {
        attribute: getattr(base, attribute)
        for attribute in ("plan", "code", "graph", "output_devices")
        if hasattr(base, attribute)
    }
    bases = (PlacedModule,) if base is nn.Module else (PlacedModule, base)
    if issubclass(original, _hugging_face()):
        own["hf_device_map"] = property(_device_map)
        own["accepts_loss_kwargs"] = "num_items_in_batch" in placing.forward.code
    space = {
        **own,
        "forward": forward,
        "_placing": placing,
        "_original": original,
        "__doc__": original.__doc__,
        "__module__": original.__module__,
        "__qualname__": f"Placed{name}",
    }
    if isinstance(getattr(base, "main_input_name", None), str) and hasattr(base, "generate"):
        space["generate"] = following_generate(base)
    return type(name, bases, space)


def _hugging_face() -> tuple[type, ...]:
    """The base of Hugging Face's models, where their library is in use."""
    library = sys.modules.get("transformers.modeling_utils")
    return () if library is None else (library.PreTrainedModel,)


def _device_map(module: nn.Module) -> dict[str, torch.device]:
    """Tells Hugging Face's `Trainer` and accelerate that the model is on several devices."""
    found = {
        name.rpartition(".")[0]: parameter.device for name, parameter in module.named_parameters()
    }
    devices = set(found.values())
    return {"": devices.pop()} if len(devices) == 1 else found


def _compiled(forward: Forward, name: str) -> Callable[..., Any]:
    """The function of a text, whose lines tracebacks can show."""
    filename = f"<placed {name} {next(_numbers)}>"
    space: dict[str, Any] = {}
    exec("\n".join(forward.imports), space)
    space.update(forward.objects)
    linecache.cache[filename] = (
        len(forward.code),
        None,
        forward.code.splitlines(keepends=True),
        filename,
    )
    exec(compile(forward.code, filename, "exec"), space)
    function: Callable[..., Any] = space["forward"]
    return function


def _rebuilt(
    constructor: Callable[..., Any], original: type[nn.Module], placing: Placing, *rest: Any
) -> Any:
    return constructor(_placed_class(original, placing), *rest)
