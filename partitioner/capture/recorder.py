"""Recording: one run of a fake model, written down call by call as a graph."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Container, Mapping
from typing import Any
from unittest import mock

import numpy
import torch
from torch import Tensor, fx, nn
from torch._functorch import apis
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode

from partitioner.capture.calls import is_getter, written
from partitioner.capture.captured import NodeInfo, TensorSpec
from partitioner.capture.clone import named_tensors
from partitioner.capture.devices import (
    FOLLOWED,
    DeviceUse,
    takes_device,
    use_of,
    without_device,
)
from partitioner.capture.leaves import is_leaf
from partitioner.capture.lines import user_line
from partitioner.capture.positions import decided_by_positions
from partitioner.capture.recording import (
    Frame,
    HooksLostError,
    InexpressibleError,
    OpaqueNeededError,
    Recording,
)
from partitioner.capture.regions import (
    Autocast,
    autocast_regions,
    autograd_functions,
    is_checkpoint,
    masks_undetected,
    saved_tensor_hooks,
)
from partitioner.capture.sizes import (
    SYMBOLIC,
    DataDecidesError,
    first_of,
    holds_data,
    other_data,
)
from partitioner.capture.stand_in import RealRun
from partitioner.capture.structure import Structure, dissect
from partitioner.capture.symbols import Symbols
from partitioner.capture.truths import (
    MOST_ON_THE_WAY,
    STAND_INS,
    Answers,
    drawn,
    is_alike,
    known_truth,
    undrawn,
)
from partitioner.capture.twins import Twins, tensors_in, version_of

_BASE = (type(None), bool, int, float, complex, str, type(Ellipsis))
_TORCH_CONSTANTS = (torch.dtype, torch.layout, torch.memory_format)


class Recorder(TorchFunctionMode):
    """Writes down every torch call and every leaf module's call while it is active.

    Args:
        model: a fake clone, which is changed: its modules report their calls here.
        fakes: the mode of its tensors.
        symbols: of this recording.
        opaque: paths of modules that are leaves whatever their class, with the reasons.
        real: those of them that do not run on fake tensors.
        hooked: those of them that are leaves for their hooks alone.
        answers: for a sketch, which stand-ins for its data the model is told; `None` for none.
    """

    def __init__(
        self,
        model: nn.Module,
        fakes: FakeTensorMode,
        symbols: Symbols,
        opaque: Mapping[str, str],
        real: Mapping[str, RealRun],
        hooked: Container[str] = (),
        answers: bool | None = None,
    ) -> None:
        super().__init__()
        self.hooked = hooked
        self.real = real
        self.fakes = fakes
        self.recording = Recording(fx.Graph())
        self.model = model
        self.symbols = symbols
        self.opaque = opaque
        self.node_of: dict[int, fx.Node] = {}
        self.twins = Twins(symbols)
        self.frames: list[Frame] = []
        self.regions: list[Autocast] = []
        self._keep: list[Any] = []
        self._on = False
        self._depth = 0
        self._answers = None if answers is None else Answers(other=answers, most=MOST_ON_THE_WAY)
        self._state_names: dict[int, str] = {}
        self._held = named_tensors(model)
        for held in self._held:
            self._state_names[id(held.tensor)] = held.names[0]
            self._keep.append(held.tensor)
        for path, module in model.named_modules():
            call = functools.partial(self._call_module, module, path)
            object.__setattr__(module, "_compiled_call_impl", call)

    # What the run is given and gives.

    def placeholder(self, name: str, tensor: Tensor, twin: Tensor) -> None:
        """Add an input: its tensor, and its twin of other sizes."""
        node = self.recording.graph.placeholder(name)
        self._describe(node, tensor, path="")
        self._track(tensor, twin, node)

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the model and record it."""
        self._on = True
        try:
            with (
                mock.patch.object(FakeTensor, "device", property(self._device)),
                mock.patch.object(torch, "from_numpy", self._from_numpy),
                mock.patch.object(apis, "vmap_impl", self._vmap),
                mock.patch.object(torch, "_check_tensor_all_with", self._checked),
                masks_undetected(),
                decided_by_positions(),
                autocast_regions(self.regions),
                autograd_functions(self._refuse),
                self,
            ):
                return self.model(*args, **kwargs)
        finally:
            self._on = False

    def try_out(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Call the model without recording; tells whether its result holds a tensor."""
        self._answers = Answers()
        with masks_undetected(), self:
            result = self.model(*args, **kwargs)
        return bool(dissect(result, _is_tensor)[1])

    def finish(self, result: Any) -> tuple[Structure, list[Any]]:
        """Take the result apart, and write back the buffers that the model has rebound.

        Returns:
            The result's structure, and the nodes of its tensors and numbers.
        """
        self._write_back()
        return self.dissect(result)

    def _write_back(self) -> None:
        """Turn `self.buffer = new` into a change of the buffer."""
        for held in self._held:
            path, _, name = held.names[0].rpartition(".")
            if held.role != "buffer":
                continue
            now = self.model.get_submodule(path)._buffers.get(name)
            if now is None or now is held.tensor or id(now) not in self.node_of:
                continue
            if now.shape != held.tensor.shape or now.dtype != held.tensor.dtype:
                raise OpaqueNeededError(
                    path, f"it gives its buffer {name!r} another shape or type in forward"
                )
            with torch.no_grad():
                self._on = True
                try:
                    with self:
                        held.tensor.copy_(now.detach())
                finally:
                    self._on = False

    def express(self, value: Any) -> Any:
        """Write a value for a graph, with nodes in the places of tensors and symbolic numbers.

        Raises:
            InexpressibleError: it holds something that a graph cannot.
        """
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, SYMBOLIC):
            return self._number(value)
        if isinstance(value, (*_BASE, *_TORCH_CONSTANTS)):
            return value
        if isinstance(value, tuple):
            items = [self.express(item) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        if isinstance(value, list):
            return [self.express(item) for item in value]
        if type(value) is dict and all(isinstance(key, str) for key in value):
            return {key: self.express(item) for key, item in value.items()}
        if isinstance(value, slice):
            return slice(
                self.express(value.start), self.express(value.stop), self.express(value.step)
            )
        if isinstance(value, range):
            return list(value)
        if isinstance(value, numpy.generic):
            return value.item()
        raise InexpressibleError(f"a {type(value).__name__} as an argument")

    def dissect(self, value: Any) -> tuple[Structure, list[fx.Node]]:
        """Take a result apart into its structure and the nodes of its tensors and numbers."""
        structure, leaves = dissect(value, lambda part: isinstance(part, (Tensor, *SYMBOLIC)))
        return structure, [self.express(leaf) for _, leaf in leaves]

    def spec(self, value: Any) -> Any:
        """Describe a result: a `TensorSpec`, a structure of them, or `None`."""
        if isinstance(value, Tensor):
            return TensorSpec.of(value)
        if isinstance(value, (list, tuple)):
            return tuple(self.spec(item) for item in value)
        if isinstance(value, dict):
            return {key: self.spec(item) for key, item in value.items()}
        return None

    # Torch calls.

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._depth += 1
        try:
            return self._intercept(func, args, kwargs or {})
        finally:
            self._depth -= 1

    def _intercept(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if is_getter(func):
            name = func.__self__.__name__
            if name == "device":
                return FOLLOWED
            if name == "shape" and self._on:
                return self.twins.shape(args[0], self.node_of.get(id(args[0])))
            if name not in _TENSOR_ATTRIBUTES:
                return func(*args)
        stripped = without_device(func, args, kwargs)
        if stripped is None:
            self._note_device(DeviceUse.LITERAL if _is_literal_move(args, kwargs) else None)
            return args[0]
        func, args, kwargs, use = stripped
        if not self._on:
            return self._run(func, args, kwargs)
        if func is torch._C._set_grad_enabled:
            return func(*args, **kwargs)
        if torch._C._functorch.peek_interpreter_stack() is not None:
            raise OpaqueNeededError(self._callable_whole(), "it uses torch.func")
        if func is Tensor.size:
            shape = self.twins.shape(args[0], self.node_of.get(id(args[0])))
            index = first_of(kwargs.get("dim", args[1] if len(args) > 1 else None))
            return shape if index is None else shape[index]
        return self._record(func, args, kwargs, use)

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if takes_device(func):
            kwargs = {**kwargs, "device": "cpu"}
        if self._answers is not None and func in STAND_INS:
            try:
                result = func(*args, **kwargs)
            except Exception:
                return self._answers.to(func)
            return self._answers.to(func) if isinstance(result, SYMBOLIC) else result
        return func(*args, **kwargs)

    def _record(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], use: DeviceUse
    ) -> Any:
        if not tensors_in(args, kwargs) and any(isinstance(a, numpy.ndarray) for a in args):
            return self._constant(func, args, kwargs)
        if (
            func is Tensor.__bool__
            and (known := known_truth(self.node_of.get(id(args[0])))) is not None
        ):
            return known
        result, twin, changed = self.twins.both(
            lambda args, kwargs: self._run(func, args, kwargs), args, kwargs
        )
        if func is Tensor.requires_grad_:
            changed = [args[0]]
        if not changed and not self._is_worth_recording(result, twin):
            return result
        self._check_region()
        tensors = tensors_in(args, kwargs)
        result, twin = self.twins.bounded(result, twin, tensors)
        result = self._fresh(result, tensors, changed)
        try:
            op, target, node_args, node_kwargs = written(func, args, kwargs)
            if not tensors and not isinstance(result, Tensor):
                raise InexpressibleError(f"what {getattr(func, '__name__', func)} made")
            node_args = self.express(node_args)
            node_kwargs = self.express(node_kwargs)
        except InexpressibleError as error:
            if not tensors and isinstance(result, Tensor):
                return self._constant(func, args, kwargs)
            raise OpaqueNeededError(self._callable_whole(), f"{error} ({user_line()})") from None
        node = self._add(op, target, node_args, node_kwargs)
        creates = not tensors
        if creates:
            self.recording.follows[node] = use
        elif use is DeviceUse.LITERAL:
            self._note_device(use)
        mutates = self._mutated(node, changed)
        self._describe(node, result, mutates=mutates, creates=creates)
        return self._track(result, twin, node)

    def _is_worth_recording(self, result: Any, twin: Any) -> bool:
        """Whether a result holds a tensor, or a number that depends on sizes or data."""
        if isinstance(result, (Tensor, *SYMBOLIC)):
            return True
        if isinstance(result, (int, float)):
            return bool(result != twin)
        if isinstance(result, (list, tuple)):
            return any(map(self._is_worth_recording, result, twin))
        return False

    def _fresh(self, result: Any, tensors: list[Tensor], changed: list[Tensor]) -> Any:
        """Give a new object for a result that is one of the arguments, unchanged.

        Some calls (dropout in evaluation, `contiguous`) do nothing at times; their node and that
        of their argument must stay apart.
        """
        if (
            isinstance(result, Tensor)
            and any(result is tensor for tensor in tensors)
            and not any(result is tensor for tensor in changed)
        ):
            return torch.ops.aten.alias.default(result)
        return result

    def _mutated(self, node: fx.Node, changed: list[Tensor]) -> tuple[str, ...]:
        names: dict[str, None] = {}
        for tensor in changed:
            storage = _storage(tensor)
            if storage is None:
                continue
            self.recording.mutated[storage] = None
            if id(tensor) in self._state_names:
                self._tensor(tensor)
            for other in self.recording.storages.get(storage, ()):
                names[other.name] = None
            self.recording.storages.setdefault(storage, []).append(node)
        return tuple(name for name in names if name != node.name)

    # Sizes.

    def _number(self, number: Any) -> Any:
        return self.symbols.node_of(number, self._make_number)

    def _make_number(self, op: str, target: Any, args: tuple[Any, ...]) -> fx.Node:
        node = self._add(op, target, args, {})
        self._describe(node, None)
        return node

    # Module calls.

    def _call_module(self, module: nn.Module, path: str, /, *args: Any, **kwargs: Any) -> Any:
        if not self._on:
            return self._called(module, args, kwargs)
        hooks = saved_tensor_hooks()
        if path and self.frames and is_checkpoint(hooks) and hooks != self.frames[-1].hooks:
            self.recording.checkpointed[path] = None
            return self._call_leaf(module, path, args, kwargs, checkpointed=True)
        if not path and path in self.opaque:
            return self._call_root(module, args, kwargs)
        if path and (path in self.opaque or is_leaf(module)):
            return self._call_leaf(module, path, args, kwargs)
        frame = Frame(path, module, 0, hooks)
        with torch._C.DisableTorchFunction():
            try:
                frame.args = self.express(args)
                frame.kwargs = self.express(kwargs)
            except InexpressibleError:
                frame.expressible = False
        self.frames.append(frame)
        self.recording.calls.append(frame)
        frame.start = len(self.recording.sequence)
        before = drawn()
        try:
            with self.symbols.scope():
                result = self._called(module, args, kwargs)
            if drawn() != before:
                raise OpaqueNeededError(
                    self._callable_whole(), "it draws random numbers outside PyTorch"
                )
        except BaseException:
            self._failed(path)
            raise
        finally:
            self.frames.pop()
            frame.stop = len(self.recording.sequence)
        with torch._C.DisableTorchFunction():
            try:
                frame.result = self.express(dict(result) if isinstance(result, dict) else result)
            except InexpressibleError:
                frame.expressible = False
        return result

    def _called(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a module past what was put in the place of its call, its hooks included.

        Hooks of the model itself are not part of the recording: they run around the placed one.
        """
        if module is self.model:
            return module.forward(*args, **kwargs)
        return module._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _failed(self, path: str) -> None:
        if self.recording.failed_at is None:
            self.recording.failed_at = path
            self.recording.failed_whole = self._callable_whole()

    def _callable_whole(self) -> str:
        """The innermost module of the running calls whose arguments a graph can hold."""
        for frame in reversed(self.frames):
            if frame.expressible:
                return frame.path
        return ""

    def _call_leaf(
        self,
        module: nn.Module,
        path: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        checkpointed: bool = False,
    ) -> Any:
        opaque = checkpointed or path in self.opaque

        def call(args: Any, kwargs: Any) -> Any:
            if opaque:
                return self._called_whole(module, path, args, kwargs)
            return self._called(module, args, kwargs)

        return self._as_node(module, path, call, args, kwargs, checkpointed=checkpointed)

    def _call_root(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the model itself as one node, whose value is the tensors of its result, in order."""
        structures: list[Structure] = []

        def call(args: Any, kwargs: Any) -> list[Tensor]:
            structure, leaves = dissect(self._called_whole(module, "", args, kwargs), _is_tensor)
            structures.append(structure)
            return [leaf for _, leaf in leaves]

        made = self._as_node(module, "", call, args, kwargs)
        return structures[0].rebuild(structures[0].plain(iter(made)))

    def _called_whole(self, module: nn.Module, path: str, args: Any, kwargs: Any) -> Any:
        if path in self.real:
            return self.real[path](args, kwargs, training=module.training)
        with torch._C._EnableTorchFunction():
            return self._whole(module, path, args, kwargs)

    def _as_node(
        self,
        module: nn.Module,
        path: str,
        call: Callable[[Any, Any], Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        checkpointed: bool = False,
    ) -> Any:
        """Make a call that becomes one node: what runs inside is not recorded."""
        self._on = False
        try:
            with undrawn(), torch._C.DisableTorchFunction():
                return self._leaf(module, path, call, args, kwargs, checkpointed)
        except BaseException:
            self._failed(path)
            raise
        finally:
            self._on = True

    def _whole(self, module: nn.Module, path: str, args: Any, kwargs: Any) -> Any:
        """Call a module with stand-ins for its data, two ways if it asks for any.

        One way that works is enough: the other may lead to sizes that depend on data, or raise.

        Raises:
            OpaqueNeededError: what it returns is built another way then.
        """
        results: list[Any] = []
        failures: list[Exception] = []
        outside = self._answers
        for other in (False, True):
            self._answers = Answers(other=other)
            try:
                results.append(self._called(module, args, kwargs))
            except Exception as error:
                failures.append(error)
            finally:
                given, self._answers = self._answers.given, outside
            if not given:
                break
        if not results:
            raise failures[0]
        if path and not is_alike(results[0], results[-1]):
            reason = self.opaque.get(path, "it decides by its data")
            if not reason.startswith("what "):
                reason = f"what {path} returns is built one way or another: {reason}"
            raise OpaqueNeededError(self._callable_whole(), reason)
        return results[0]

    def _leaf(
        self,
        module: nn.Module,
        path: str,
        call: Callable[[Any, Any], Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        checkpointed: bool,
    ) -> Any:
        try:
            node_args, node_kwargs = self.express(args), self.express(kwargs)
        except InexpressibleError as error:
            if path in self.hooked:
                raise HooksLostError(path) from None
            raise OpaqueNeededError(self._callable_whole(), f"{error} of {path}") from None
        state = _state_within(module, self._state_names)
        versions = [version_of(tensor) for tensor, _, _ in state]
        try:
            result, twin, changed = self.twins.both(call, args, kwargs)
        except (Exception, DataDecidesError):
            if not holds_data((args, kwargs)):
                raise
            result, twin, changed = self.twins.both(call, *other_data((args, kwargs)))
        tensors = tensors_in(args, kwargs)
        result, twin = self.twins.bounded(result, twin, tensors)
        result = self._fresh(result, tensors, changed)
        if not _is_plain(result):
            if path in self.hooked:
                raise HooksLostError(path)
            reason = f"{path}, which is called whole, returns tensors in an object"
            if path in self.opaque:
                reason += f" ({self.opaque[path]})"
            raise OpaqueNeededError(self._callable_whole(), reason)
        node = self._add("call_module", path, node_args, node_kwargs)
        self.recording.leaf_state[node] = {inner: name for _, inner, name in state}
        for tensor, _, name in state:
            self.recording.leaf_specs[name] = self.spec(tensor)
        # Fused kernels (batch norm) change running statistics without telling: count all buffers.
        self.recording.leaf_mutates[node] = [
            name
            for (tensor, _, name), version in zip(state, versions, strict=True)
            if version_of(tensor) != version
            or (module.training and not isinstance(tensor, nn.Parameter))
        ]
        mutates = self._mutated(node, changed)
        self._describe(node, result, path=path, mutates=mutates, checkpointed=checkpointed)
        return self._track(result, twin, node)

    # Nodes.

    def _add(self, op: str, target: Any, args: Any, kwargs: Any) -> fx.Node:
        name = attribute_name(target) if op in ("call_module", "get_attr") else None
        return self.recording.graph.create_node(op, target, tuple(args), dict(kwargs), name)

    def _describe(
        self,
        node: fx.Node,
        result: Any,
        *,
        path: str | None = None,
        mutates: tuple[str, ...] = (),
        creates: bool = False,
        state: tuple[str, ...] = (),
        checkpointed: bool = False,
    ) -> None:
        region = self.regions[-1] if self.regions else None
        self.recording.infos[node] = NodeInfo(
            module_path=self._path() if path is None else path,
            value=self.spec(result),
            state=state,
            mutates=mutates,
            creates=creates,
            grad_enabled=torch.is_grad_enabled(),
            autocast=region,
            checkpointed=checkpointed,
            line=user_line() if node.op != "placeholder" else "",
        )
        self.recording.sequence.append(node)
        maker = self.frames[-1].module if self.frames else self.model
        self.recording.flags[node] = (self._path(), maker.training)

    def _track(self, result: Any, twin: Any, node: fx.Node) -> Any:
        """Remember that a node made a result.

        Returns:
            The result to give to the model: numbers that vary know their node.
        """
        if isinstance(result, Tensor):
            self.node_of[id(result)] = node
            self.twins.pair(result, twin)
            self._keep.append(result)
            storage = _storage(result)
            if storage is not None:
                nodes = self.recording.storages.setdefault(storage, [])
                if node not in nodes:
                    nodes.append(node)
            return result
        if isinstance(result, SYMBOLIC):
            return self.symbols.result(1, 1, node, data=True)
        if isinstance(result, (int, float)) and not isinstance(result, bool):
            return self.symbols.result(result, twin, node)
        if isinstance(result, (list, tuple)):
            items = [
                self._track_item(*pair, node, index)
                for index, pair in enumerate(zip(result, twin, strict=True))
            ]
            if all(mine is item for mine, item in zip(items, result, strict=True)):
                return result
            return items if isinstance(result, list) else tuple(items)
        if isinstance(result, dict):
            for key, item in result.items():
                self._track_item(item, twin[key], node, key)
        return result

    def _track_item(self, item: Any, twin: Any, node: fx.Node, key: Any) -> Any:
        varies = isinstance(item, (int, float)) and item != twin
        if not varies and not isinstance(item, (Tensor, list, tuple, dict, *SYMBOLIC)):
            return item
        taken = self.recording.graph.call_function(operator.getitem, (node, key))
        self._describe(taken, item, path=self.recording.infos[node].module_path)
        return self._track(item, twin, taken)

    def _tensor(self, tensor: Tensor) -> fx.Node:
        """The node that stands for a tensor."""
        node = self.node_of.get(id(tensor))
        if node is not None:
            return node
        name = self._state_names.get(id(tensor))
        if name is None:
            if isinstance(tensor, FakeTensor):
                raise InexpressibleError("a tensor that no recorded call made")
            name = self._constant_name(tensor)
        return self._get_attr(tensor, name)

    def _get_attr(self, tensor: Tensor, name: str) -> fx.Node:
        node = self._add("get_attr", name, (), {})
        self._describe(node, tensor, state=(name,))
        self._track(tensor, tensor, node)
        self.recording.state_nodes[name] = node
        return node

    def _constant_name(self, tensor: Tensor) -> str:
        name = f"_constant_{len(self.recording.constants)}"
        self.recording.constants[name] = tensor
        return name

    def _constant(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        """Keep what a call makes out of values that a graph cannot hold, such as an array."""
        with unset_fake_temporarily():
            real = func(*args, **kwargs).to("cpu")
            fake: Tensor = self.fakes.from_tensor(real)
        self._get_attr(fake, self._constant_name(real))
        return fake

    def _device(self, tensor: FakeTensor) -> torch.device:
        """What a fake tensor says of its device: to the model's own code, `FOLLOWED`."""
        if self._on and not self._depth and tensor.fake_mode is self.fakes:
            return FOLLOWED
        return _DEVICE(tensor)

    def _from_numpy(self, array: Any) -> Tensor:
        """`torch.from_numpy`, which PyTorch does not let be intercepted."""
        with torch._C.DisableTorchFunction():
            return self._constant(_FROM_NUMPY, (array,), {}) if self._on else _FROM_NUMPY(array)

    def _vmap(self, *args: Any, **kwargs: Any) -> Any:
        """`torch.vmap`, whose tensors are none that a graph knows."""
        if self._on:
            raise OpaqueNeededError(self._callable_whole(), "it uses torch.vmap")
        return _VMAP(*args, **kwargs)

    def _checked(self, error_type: Any, condition: Tensor, message: Any = None) -> None:
        """`torch._check_tensor_all`: it holds while recording; the graph checks it in each run."""
        if self._on:
            told = str(message()) if message is not None else "a check of the model does not hold"
            every = condition.all()
            node = self._add("call_function", torch._assert_async, (self._tensor(every), told), {})
            self._describe(node, None)

    def _refuse(self, function: type) -> None:
        """Ask for a leaf where a custom autograd function runs: its backward cannot be recorded."""
        if self._on:
            name = f"{function.__module__}.{function.__qualname__}"
            reason = f"it applies the autograd function {name}"
            raise OpaqueNeededError(self._callable_whole(), reason)

    def _path(self) -> str:
        return self.frames[-1].path if self.frames else ""

    def _note_device(self, use: DeviceUse | None) -> None:
        if use is DeviceUse.LITERAL:
            for frame in self.frames:
                frame.literal_device = True

    def _check_region(self) -> None:
        """Ask for a leaf where the model's own code changes what autograd saves (checkpointing)."""
        hooks = saved_tensor_hooks()
        if hooks is None:
            return
        for frame in reversed(self.frames):
            if frame.hooks != hooks:
                if frame.path and 2 * _numel(frame.module) <= _numel(self.model):
                    raise OpaqueNeededError(frame.path, "it checkpoints activations")
                return


_DEVICE: Callable[[FakeTensor], torch.device] = FakeTensor.__dict__["device"].fget
_FROM_NUMPY = torch.from_numpy
_VMAP: Callable[..., Any] = apis.vmap_impl  # type: ignore[attr-defined]

# Attributes of tensors that are tensors.
_TENSOR_ATTRIBUTES = frozenset({"T", "H", "mT", "mH", "data", "grad", "real", "imag"})


def attribute_name(target: str) -> str:
    """What the node of a module's call or of a tensor is called; the model's own is `model`."""
    return target.replace(".", "_") or "model"


def _is_plain(result: Any) -> bool:
    """Whether all tensors of a result are in lists, tuples and dicts."""
    if isinstance(result, (list, tuple)):
        return all(map(_is_plain, result))
    if isinstance(result, dict):
        return all(map(_is_plain, result.values()))
    return isinstance(result, Tensor) or not dissect(result, _is_tensor)[1]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _numel(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _storage(tensor: Tensor) -> int | None:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return None


def _state_within(module: nn.Module, names: Mapping[int, str]) -> list[tuple[Tensor, str, str]]:
    """Each tensor that a leaf holds, with its name in the leaf and its canonical name."""
    return [
        (held.tensor, held.names[0], names[id(held.tensor)])
        for held in named_tensors(module)
        if id(held.tensor) in names
    ]


def _is_literal_move(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call that only moves a tensor names the device itself."""
    devices = [value for value in (*args[1:], *kwargs.values()) if isinstance(value, torch.device)]
    return not devices or any(use_of(device) is DeviceUse.LITERAL for device in devices)
