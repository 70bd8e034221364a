"""`capture`: an unmodified module and an example call become a `Captured`."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from partitioner.capture.assemble import ordered, state_specs
from partitioner.capture.captured import Captured
from partitioner.capture.check import check
from partitioner.capture.clone import fake_clone, fake_like, in_mode, named_tensors
from partitioner.capture.fakes import Fakes
from partitioner.capture.groups import Groups
from partitioner.capture.inputs import prepared
from partitioner.capture.layers import layers_of, values_of, volatile_names
from partitioner.capture.leaves import class_name, hooked
from partitioner.capture.lines import lines_of
from partitioner.capture.modes import Recorded, merged
from partitioner.capture.quiet import quiet
from partitioner.capture.recorder import Recorder
from partitioner.capture.recording import HooksLostError, OpaqueNeededError
from partitioner.capture.sizes import DataDecidesError
from partitioner.capture.sketch import WAYS, sketched
from partitioner.capture.stand_in import RealRun, has_data
from partitioner.capture.symbols import SizesFixedError, Symbols
from partitioner.capture.truths import undrawn
from partitioner.errors import CaptureError


def capture(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    training: bool,
) -> Captured:
    """Record a model as a graph, in both modes, from shapes alone.

    The model runs on fake tensors, as a copy without data: neither it nor its inputs are touched.
    Control flow that Python decides is followed as in the example; a submodule that decides by its
    data becomes one node; where the model's own `forward` does, one way through it is sketched.

    Args:
        model: any module, on any device, `meta` included.
        args: positional arguments of an example call; only sizes and types of tensors matter.
        kwargs: its keyword arguments.
        training: the mode that the result is for. Where `model.training` is equal, each submodule
            keeps its own flag as it is.

    Raises:
        CaptureError: the inputs do not fit, the model fails, or no graph stands for it and it
            has no data to be called with.
    """
    model = getattr(model, "_orig_mod", model)
    session = _Session(model, args, dict(kwargs or {}))
    with quiet(), undrawn():
        captured = session.both(training)
    if session.hooks_lost:
        names = ", ".join(f"'{path}'" for path in session.hooks_lost)
        warnings.warn(
            f"hooks of {names} will not run: what these modules take or return has no place in a "
            "graph, so that they are taken apart; put hooks on modules inside of them",
            stacklevel=2,
        )
    return captured


def runs(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a model runs on inputs like these, tried on fake tensors without recording."""
    mode = _fake_mode()
    clone = fake_clone(model, mode)
    try:
        signature = inspect.signature(model.forward)
        _, args, kwargs = prepared(signature, args, kwargs, lambda _, t: fake_like(t, mode))
        recorder = Recorder(clone, mode, Symbols(Groups(())), {}, {})
        with mode, torch.no_grad():
            return bool(recorder.try_out(args, kwargs))
    except Exception:
        return False


class _NoGraphError(CaptureError):
    """The model's own `forward` cannot be recorded: it can be called whole.

    Attributes:
        reason: why.
        error: what to raise where calling it does not work either.
    """

    def __init__(self, message: str, reason: str, error: CaptureError | None) -> None:
        super().__init__(message)
        self.reason = reason
        self.error = error


class _Session:
    """The recordings of one model; what was found to be a leaf in one is one in the next."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.model = model
        self.args = args
        self.kwargs = kwargs
        self.hooked = hooked(model)
        self.hooks_lost: list[str] = []
        self.leaves = dict(self.hooked)
        self.real: dict[str, RealRun] = {}
        self.errors: dict[str, CaptureError] = {}
        self.needed: _NoGraphError | None = None
        self.ways = iter(WAYS)
        self.answers: bool | None = None
        self.signature = inspect.signature(model.forward)
        inputs: list[tuple[str, Tensor]] = []
        prepared(self.signature, args, kwargs, lambda *each: _noted(each, inputs))
        recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
        self.groups = Groups(inputs, small=recurrent)

    def both(self, training: bool) -> Captured:
        """Record both modes: with free sizes as far as the model allows, or else fixed ones.

        A model that no graph can hold is recorded along one way through it, or else as one call of
        all of it.
        """
        while True:
            try:
                return self._described(self._checked(self._joined(training)))
            except CaptureError as error:
                if self.groups.free():
                    self.groups.fix_more()
                    continue
                if self.needed is None and isinstance(error, _NoGraphError):
                    self.needed = error
                if self.needed is None or "" in self.leaves:
                    raise
                self.answers = next(self.ways, None) if self.needed.error is None else None
                if self.answers is None:
                    self._take_whole(self.needed)
                else:
                    self.leaves = dict(self.hooked)

    def _take_whole(self, needed: _NoGraphError) -> None:
        """The whole model is one leaf, and none is in it; it takes what sizes it likes."""
        self.leaves = {"": needed.reason}
        self.errors = {"": needed.error or needed}
        self.real = {}
        if needed.error is not None:
            self._call_for_real("")

    def _joined(self, training: bool) -> Captured:
        """Record both modes, until neither finds a leaf or a fixed size that the other lacks."""
        asked = self._recorded(training)
        while True:
            known = self._known()
            try:
                other = self._recorded(not training)
            except CaptureError as error:
                return dataclasses.replace(asked.captured, other_mode_error=str(error))
            if self._known() == known:
                return merged(asked, other)
            asked = self._recorded(training)

    def _known(self) -> Any:
        return dict(self.leaves), [group.way for group in self.groups.groups.values()]

    def _described(self, captured: Captured) -> Captured:
        """Add what writing the model as a text takes."""
        if captured.alternate is not None:
            other = self._described(captured.alternate)
            captured = dataclasses.replace(captured, alternate=other)
        leaves = [str(node.target) for node in captured.graph.nodes if node.op == "call_module"]
        return dataclasses.replace(
            captured,
            layers=layers_of(self.model, leaves, training=captured.training),
            values=values_of(self.model, captured.constants),
            volatile=volatile_names(self.model),
        )

    def _checked(self, captured: Captured) -> Captured:
        for each in (captured, captured.alternate):
            wrong = each and check(self.model, each)
            if wrong:
                raise CaptureError(
                    f"the recording of {captured.model_class} does not run as the model does "
                    f"({wrong}); this is a fault of the recording, not of the model"
                )
        return captured

    def _recorded(self, training: bool) -> Recorded:
        while True:
            try:
                return self._run(training)
            except SizesFixedError:
                continue
            except HooksLostError as lost:
                del self.leaves[lost.path], self.hooked[lost.path]
                self.hooks_lost.append(lost.path)
            except OpaqueNeededError as needed:
                if needed.path in self.leaves and needed.path not in self.real:
                    self._call_for_real(needed.path)
                    continue
                if not needed.path or needed.path in self.leaves:
                    message = needed.error or (
                        f"{class_name(type(self.model))} cannot be recorded: {needed.reason}; move "
                        "that part into a submodule of its own, which is then called as a whole"
                    )
                    raise _NoGraphError(str(message), needed.reason, needed.error) from None
                self.leaves[needed.path] = needed.reason
                if needed.error is not None:
                    self.errors[needed.path] = needed.error
                    self._call_for_real(needed.path)

    def _call_for_real(self, path: str) -> None:
        """Learn what a leaf returns by calling it with made-up data."""
        self.real[path] = RealRun(self.model.get_submodule(path))

    def _run(self, training: bool) -> Recorded:
        symbols = Symbols(self.groups)
        mode = _fake_mode()
        clone = in_mode(fake_clone(self.model, mode), training)
        held = named_tensors(clone)
        recorder = Recorder(clone, mode, symbols, self.leaves, self.real, self.hooked, self.answers)

        def make(name: str, tensor: Tensor) -> Tensor:
            fake = fake_like(tensor, mode)
            with mode:
                twin = torch.empty(self.groups.twin_shape(tensor), dtype=tensor.dtype, device="cpu")
            recorder.placeholder(name, fake, twin)
            return fake

        spec, args, kwargs = prepared(self.signature, self.args, self.kwargs, make)
        with mode:
            try:
                result = recorder.run(args, kwargs)
                output_spec, leaves = recorder.finish(result)
            except (Exception, DataDecidesError) as error:
                raise self._failure(error, recorder) from error
        self.leaves.update(
            dict.fromkeys(recorder.recording.checkpointed, "it is called under checkpointing")
        )
        whole = "" in self.leaves
        arranged = ordered(recorder, output_spec.plain(iter(leaves)))
        called = {node.target for node in arranged.graph.nodes if node.op == "call_module"}
        example = prepared(
            self.signature, self.args, self.kwargs, lambda _, t: fake_like(t, _fake_mode())
        )
        captured = Captured(
            graph=arranged.graph,
            nodes=arranged.nodes,
            state=state_specs(held),
            calls=arranged.calls,
            colocated=(tuple(arranged.nodes),) if whole else arranged.colocated,
            signature=self.signature,
            input_spec=spec,
            output_spec=output_spec,
            model_class=class_name(type(self.model)),
            training=training,
            example=example[1:],
            opaque={path: why for path, why in self.leaves.items() if path in called},
            constants=recorder.recording.constants,
            dynamic=symbols.active or whole,
            specialised=() if whole else self.groups.specialised(),
            conditions=() if whole else symbols.all_conditions(),
        )
        if self.needed is not None and not whole:
            captured = sketched(captured, self.needed.reason)
        return Recorded(captured, arranged.flags)

    def _failure(self, error: BaseException, recorder: Recorder) -> BaseException:
        recording = recorder.recording
        where, short = lines_of(error.__traceback__)
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        path, whole = recording.failed_at or "", recording.failed_whole
        if isinstance(error, DataDecidesError):
            reason = f"it decides by its data ({short})"
            if path in self.leaves and self._can_call_for_real(path):
                return OpaqueNeededError(path, reason)
            if path and path in self.leaves:
                reason = self.leaves[path]
            if whole and whole not in self.leaves:
                return OpaqueNeededError(whole, reason)
            return _NoGraphError(
                f"{class_name(type(self.model))} decides by its data in its own forward, at\n"
                f"  {where}\n"
                f"so no one graph stands for it; move that part into a submodule of its own, which "
                f"is then called as a whole, or decide with torch.where",
                reason,
                None,
            )
        if path in self.errors:
            return self.errors[path]
        kind = class_name(type(self.model.get_submodule(path)))
        module = f"in {path!r} ({kind})" if path else "in the model"
        failure = CaptureError(
            f"the model does not run on the example inputs: {module}, at\n  {where}\n"
            f"{type(error).__name__}: {text}"
        )
        if whole not in self.leaves and self._can_call_for_real(whole):
            return OpaqueNeededError(whole, "it does not run on fake tensors", failure)
        return failure

    def _can_call_for_real(self, path: str) -> bool:
        return path not in self.real and has_data(self.model.get_submodule(path))


def _noted(each: tuple[str, Tensor], inputs: list[tuple[str, Tensor]]) -> Tensor:
    inputs.append(each)
    return each[1]


def _fake_mode() -> Fakes:
    return Fakes(shape_env=ShapeEnv(), static_shapes=True)
