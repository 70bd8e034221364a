"""The mode below autograd: checks every ATen call against CUDA's rules and counts its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from partitioner.virtual.functions import FunctionMode
from partitioner.virtual.kernels import computed
from partitioner.virtual.ledger import Block, VirtualGpu, storages
from partitioner.virtual.rules import Kind, Rule, rule_of
from partitioner.virtual.session import Session, nbytes_of

Arguments = Sequence[Any]
Keywords = Mapping[str, Any]
_WithoutFunctions = torch._C.DisableTorchFunction


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers for one session; lets PyTorch (or a fake tensor mode) compute."""

    supports_higher_order_operators = True

    def __init__(self, session: Session, function_mode: FunctionMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._session = session
        self._function_mode = function_mode
        self._rules: dict[Any, Rule] = {}
        self._treatments: dict[Kind, Callable[[Any, Rule, Arguments, Keywords], Any]] = {
            Kind.VIEW: self._view,
            Kind.PLAIN: self._plain,
            Kind.FACTORY: self._factory,
            Kind.LISTS: self._lists,
            Kind.COPY: self._copy,
            Kind.COPY_LISTS: self._copy_lists,
            Kind.LIFT: self._lift,
            Kind.RESIZE: self._resize,
        }

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Otherwise PyTorch wraps every call in a guard that costs more than the call."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Arguments = (), kwargs: Keywords | None = None
    ) -> Any:
        """Check, compute, label and count."""
        rule = self._rules.get(func)
        if rule is None:
            rule = self._rules[func] = rule_of(func)
        if rule.kind is Kind.COMPOSITE:
            with self:
                return func.decompose(*args, **(kwargs or {}))
        with _WithoutFunctions():
            return self._treatments[rule.kind](func, rule, args, kwargs or {})

    def _view(self, func: Any, rule: Rule, args: Arguments, kwargs: Keywords) -> Any:
        return func(*args, **kwargs)

    def _plain(self, func: Any, rule: Rule, args: Arguments, kwargs: Keywords) -> Any:
        home = self._common(rule, args, kwargs)
        result = computed(func, args, kwargs)
        if rule.on_host:
            fresh = [each for i, each in enumerate(result) if i not in rule.on_host]
            self._claim(fresh, home or self._session.cpu)
        elif rule.fresh and home is not None and home.counted:
            self._claim(result, home)
        return result

    def _factory(self, func: Any, rule: Rule, args: Arguments, kwargs: Keywords) -> Any:
        home = self._session.requested or self._common(rule, args, kwargs) or self._origin()
        result = func(*args, **kwargs)
        device = kwargs.get("device")
        if home.counted and (device is None or device.type != "meta"):
            self._claim(result, home)
        return result

    def _lift(self, func: Any, rule: Rule, args: Arguments, kwargs: Keywords) -> Any:
        result = func(*args, **kwargs)
        self._claim(result, self._session.requested or self._origin())
        return result

    def _resize(self, func: Any, rule: Rule, args: Arguments, kwargs: Keywords) -> Any:
        self._common(rule, args, kwargs)
        result = func(*args, **kwargs)
        for name, tensor in _named(rule, args, kwargs):
            if name in rule.written:
                for storage in storages(tensor):
                    self._session.recount(storage)
        return result

    def _copy(self, func: Any, rule: Rule, args: Arguments, kwargs: Keywords) -> Any:
        intact = self._transfer(args[0], args[1])
        result = func(*args, **kwargs)
        return result if intact else result.zero_()

    def _copy_lists(self, func: Any, rule: Rule, args: Arguments, kwargs: Keywords) -> Any:
        intact = [
            self._transfer(destination, source)
            for destination, source in zip(args[0], args[1], strict=True)
        ]
        result = func(*args, **kwargs)
        for destination, whole in zip(args[0], intact, strict=True):
            if not whole:
                destination.zero_()
        return result

    def _lists(self, func: Any, rule: Rule, args: Arguments, kwargs: Keywords) -> Any:
        """Each index of the argument lists is a call of its own."""
        first = args[rule.lists[0]]
        columns = [args[i] for i in rule.lists if i < len(args) and len(args[i]) == len(first)]
        homes = []
        for row in zip(*columns, strict=True):
            blocks = [self._session.block(tensor) for tensor in row]
            homes.append(self._agreed(rule, blocks, [("", tensor) for tensor in row]))
        result = func(*args, **kwargs)
        if rule.fresh and result is not None:
            for tensor, home in zip(result, homes, strict=True):
                if home is not None:
                    self._claim(tensor, home)
        return result

    def _transfer(self, destination: Tensor, source: Tensor) -> bool:
        """Note a move. False where it goes over a broken link: then all that arrives is zeros."""
        session = self._session
        blocks = session.block(destination), session.block(source)
        ends = [session.cpu if block is None else block.gpu for block in blocks]
        if ends[0] is ends[1]:
            return True
        for block, other in zip(blocks, reversed(ends), strict=True):
            if block is not None and block.gpu is session.undecided:
                block.relocate(other)
                return True
        session.record(ends[1], ends[0], nbytes_of(destination))
        return not session.arrives_changed(ends[1], ends[0])

    def _common(self, rule: Rule, args: Arguments, kwargs: Keywords) -> VirtualGpu | None:
        """The device on which the operator runs; `None` where no tensor tells."""
        label, tensors = self._session.label, [value for value in args if isinstance(value, Tensor)]
        if rule.lists or rule.keywords:
            tensors = [tensor for _, tensor in _named(rule, args, kwargs)]
        if not tensors:
            return None
        try:
            blocks = [getattr(tensor.untyped_storage(), label, None) for tensor in tensors]
        except (NotImplementedError, RuntimeError):
            blocks = [self._session.block(tensor) for tensor in tensors]
        first = blocks[0]
        if first is None:
            if not any(blocks):
                return self._session.cpu
        else:
            gpu: VirtualGpu = first.gpu
            for block in blocks:
                if block is None or block.gpu is not gpu:
                    break
            else:
                return gpu
        return self._agreed(rule, blocks, list(_named(rule, args, kwargs)))

    def _agreed(
        self,
        rule: Rule,
        blocks: Sequence[Block | None],
        named: Sequence[tuple[str, Tensor]],
    ) -> VirtualGpu | None:
        """The one device on which arguments with several labels can meet.

        Raises:
            RuntimeError: there is none, in PyTorch's words.
        """
        session = self._session
        home: VirtualGpu | None = None
        scalar = False
        for (name, tensor), block in zip(named, blocks, strict=True):
            gpu = session.cpu if block is None else block.gpu
            if gpu is session.undecided or name in rule.anywhere or name in rule.indices:
                continue
            if gpu is session.cpu and name not in rule.written:
                if tensor.dim() == 0 and rule.scalars:
                    scalar = True
                    continue
                if tensor.device.type == "meta":
                    continue
            if home is None:
                home = gpu
            elif gpu is not home:
                raise _mismatch(home, gpu)
        if home is None:
            home = session.cpu if scalar else session.undecided
        for (name, _), block in zip(named, blocks, strict=True):
            gpu = session.cpu if block is None else block.gpu
            if block is not None and gpu is session.undecided and home is not session.undecided:
                block.relocate(home)
            elif name in rule.indices and gpu is not home and gpu is not session.cpu:
                raise RuntimeError(
                    "indices should be either on cpu or on the same device as the indexed tensor "
                    f"({home.name})"
                )
        return home

    def _origin(self) -> VirtualGpu:
        """Where a factory that nobody gave a device puts its result.

        What the user calls is on the CPU. What PyTorch's own code makes while the user's call or a
        backward pass runs is not decided until it is used.
        """
        own = not self._function_mode.is_innermost()
        backward = torch._C._current_graph_task_id() != -1
        return self._session.undecided if own or backward else self._session.cpu

    def _claim(self, result: Any, home: VirtualGpu) -> None:
        for tensor in _tensors(result):
            try:
                self._session.claim(tensor.untyped_storage(), home)
            except NotImplementedError:
                for storage in storages(tensor):
                    self._session.claim(storage, home)


def _mismatch(home: VirtualGpu, other: VirtualGpu) -> RuntimeError:
    first, second = (other, home) if home.device.type == "cpu" else (home, other)
    return RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, "
        f"{first.name} and {second.name}!"
    )


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        return (value,)
    if isinstance(value, list | tuple):
        return chain.from_iterable(map(_tensors, value))
    return ()


def _named(rule: Rule, args: Arguments, kwargs: Keywords) -> Iterator[tuple[str, Tensor]]:
    """The tensors among the arguments, each under its argument's name."""
    names = rule.names
    for i, value in enumerate(args):
        for tensor in _tensors(value):
            yield (names[i] if i < len(names) else ""), tensor
    for name in rule.keywords:
        for tensor in _tensors(kwargs.get(name)):
            yield name, tensor
