"""What the user demands of a placement, and what that means for the nodes of one model.

A pattern is a glob (`*` matches dots too) on module paths, parameter names and node names. A
pattern that names a module covers its submodules, and one that names a parameter covers the nodes
where that parameter lives.

Each constraint has one text, which is how plans and the command line write it::

    pin lm_head=cuda:1
    colocate encoder.*,embedding
    separate encoder,decoder
    contiguous
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import combinations

import torch

from partitioner.errors import SpecError
from partitioner.spec.device import device_name
from partitioner.spec.names import check_name, hint


@dataclass(frozen=True, slots=True)
class Pin:
    """All that `pattern` matches runs on `device`. Text: `pin lm_head=cuda:1`."""

    pattern: str
    device: str | torch.device

    def __post_init__(self) -> None:
        _check_pattern(self.pattern, self)
        object.__setattr__(self, "device", device_name(self.device))

    def __str__(self) -> str:
        return f"pin {self.pattern}={self.device}"


class _Several:
    """A constraint on what one or more patterns match."""

    __slots__ = ()
    patterns: tuple[str, ...]

    def __init__(self, pattern: str, *more: str) -> None:
        object.__setattr__(self, "patterns", (pattern, *more))
        for each in self.patterns:
            _check_pattern(each, self)

    def __str__(self) -> str:
        return f"{type(self).__name__.lower()} {','.join(self.patterns)}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.patterns))})"


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Colocate(_Several):
    """All that the patterns match, together, runs on one device. Text: `colocate a*,b*`."""

    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Separate(_Several):
    """Nothing that one pattern matches shares a device with what another one matches.

    With a single pattern, the groups are what it matches: each of the shallowest matched modules,
    then each matched parameter or node outside of those; they are pairwise apart. A group may
    itself be spread over devices. Text: `separate a,b`.
    """

    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contiguous:
    """The devices can be ordered so that no value goes back in that order. Text: `contiguous`."""

    def __str__(self) -> str:
        return "contiguous"


Constraint = Pin | Colocate | Separate | Contiguous


@dataclass(frozen=True, slots=True)
class Targets:
    """What the patterns can match in one model.

    Attributes:
        nodes: module path by node name, in execution order.
        parameters: names of the nodes where it lives, by parameter (or buffer) name.
    """

    nodes: Mapping[str, str]
    parameters: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Demands:
    """The constraints, in terms of nodes; without contradictions.

    Attributes:
        pinned: device name by node name.
        colocated: groups of nodes that share a device.
        separated: pairs of groups; no node of one shares a device with a node of the other.
        contiguous: see `Contiguous`.
    """

    pinned: Mapping[str, str]
    colocated: tuple[tuple[str, ...], ...]
    separated: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    contiguous: bool


def parse_constraint(text: str) -> Constraint:
    """The constraint that a text such as `"pin lm_head=cuda:1"` says.

    Raises:
        SpecError: it says none.
    """
    verb, _, rest = text.strip().partition(" ")
    rest = rest.strip()
    match check_name("constraint", verb, ("pin", "colocate", "separate", "contiguous")):
        case "pin":
            pattern, equals, device = rest.rpartition("=")
            if not equals:
                raise SpecError(f"{text!r} names no device; write it as 'pin lm_head=cuda:1'")
            return Pin(pattern.strip(), device.strip())
        case "contiguous":
            if rest:
                raise SpecError(f"'contiguous' takes no pattern; {rest!r} is too much")
            return Contiguous()
        case _:
            made = Colocate if verb == "colocate" else Separate
            return made(*(pattern.strip() for pattern in rest.split(",")))


def resolve(
    constraints: Iterable[Constraint],
    targets: Targets,
    devices: Sequence[str],
    colocated: Iterable[tuple[str, ...]] = (),
) -> Demands:
    """What the constraints demand of the nodes.

    Args:
        constraints: as the user gave them.
        targets: what their patterns can match.
        devices: names of the devices there are.
        colocated: groups of nodes that share a device in any case, since the model needs it.

    Raises:
        SpecError: a pattern matches nothing, a device is unknown, or two constraints contradict
            each other; the message names them as they were written.
    """
    given = list(constraints)
    for constraint in given:
        if not isinstance(constraint, Pin | Colocate | Separate | Contiguous):
            raise SpecError(
                f"{constraint!r} is no constraint; use Pin, Colocate, Separate or Contiguous"
            )
    pins = [(c, _pinned(c, targets, devices)) for c in given if isinstance(c, Pin)]
    together = [(c, _covered(c, targets)) for c in given if isinstance(c, Colocate)]
    apart = [(c, _groups(c, targets)) for c in given if isinstance(c, Separate)]
    union = _Union(targets.nodes)
    for group in colocated:
        union.join(group, "the model itself, which needs them on one device")
    for colocate, group in together:
        union.join(group, repr(colocate))
    pinned = _checked_pins(pins, union)
    for separate, groups in apart:
        _check_apart(separate, groups, union, pinned)
    return Demands(
        pinned={node: str(pin.device) for node, pin in pinned.items()},
        colocated=tuple(group for _, group in together),
        separated=tuple(pair for _, groups in apart for pair in combinations(groups, 2)),
        contiguous=any(isinstance(c, Contiguous) for c in given),
    )


def _check_pattern(pattern: object, constraint: object) -> None:
    name = type(constraint).__name__
    if not isinstance(pattern, str):
        raise SpecError(f"{name}: a pattern is a text such as 'encoder.*', not {pattern!r}")
    if not pattern:
        raise SpecError(f"{name}: the pattern is empty; '*' matches everything")
    if any(character.isspace() or character in ",=" for character in pattern):
        raise SpecError(
            f"{name}: the pattern {pattern!r} has a space, a comma or '=', which no name has"
        )


def _pinned(pin: Pin, targets: Targets, devices: Sequence[str]) -> tuple[str, ...]:
    if pin.device not in devices:
        raise SpecError(f"{pin!r}: unknown device '{pin.device}'; {hint(str(pin.device), devices)}")
    return _matched(pin.pattern, targets, pin)


def _covered(colocate: Colocate, targets: Targets) -> tuple[str, ...]:
    found = {n for pattern in colocate.patterns for n in _matched(pattern, targets, colocate)}
    return tuple(node for node in targets.nodes if node in found)


def _matched(pattern: str, targets: Targets, constraint: Constraint) -> tuple[str, ...]:
    """Nodes that a pattern covers, in order."""
    return _in_order(
        [n for group in _by_name(pattern, targets, constraint) for n in group], targets
    )


def _groups(separate: Separate, targets: Targets) -> tuple[tuple[str, ...], ...]:
    if len(separate.patterns) > 1:
        groups = [_matched(pattern, targets, separate) for pattern in separate.patterns]
        for (i, first), (j, second) in combinations(enumerate(groups), 2):
            if both := set(first) & set(second):
                raise SpecError(
                    f"{separate!r}: both {separate.patterns[i]!r} and {separate.patterns[j]!r} "
                    f"match the node '{min(both)}', which cannot be apart from itself"
                )
        return tuple(groups)
    groups = []
    seen: set[str] = set()
    for group in _by_name(separate.patterns[0], targets, separate):
        if fresh := tuple(node for node in group if node not in seen):
            groups.append(fresh)
            seen.update(fresh)
    if len(groups) == 1:
        raise SpecError(f"{separate!r} matches one thing only, which has nothing to be apart from")
    return tuple(groups)


def _by_name(pattern: str, targets: Targets, constraint: Constraint) -> Iterator[tuple[str, ...]]:
    """The nodes under each of the shallowest matched modules, each parameter, and each node."""
    by_path: dict[str, list[str]] = {}
    for node, path in targets.nodes.items():
        for shallower in _prefixes(path):
            if fnmatchcase(shallower, pattern):
                by_path.setdefault(shallower, []).append(node)
                break
    parameters = [name for name in targets.parameters if fnmatchcase(name, pattern)]
    found = [tuple(nodes) for nodes in by_path.values()]
    found += [targets.parameters[name] for name in parameters if targets.parameters[name]]
    found += [(node,) for node in targets.nodes if fnmatchcase(node, pattern)]
    if not found:
        if parameters:
            raise SpecError(
                f"{constraint!r}: no node uses what the pattern {pattern!r} matches, "
                f"'{parameters[0]}'"
            )
        paths = dict.fromkeys(p for path in targets.nodes.values() for p in _prefixes(path))
        known = tuple(dict.fromkeys([*paths, *targets.parameters, *targets.nodes]))
        raise SpecError(
            f"{constraint!r}: the pattern {pattern!r} matches nothing; {hint(pattern, known)}"
        )
    yield from found


def _prefixes(path: str) -> Iterator[str]:
    """The modules around a path, outermost first, and itself; not the root."""
    parts = path.split(".") if path else []
    for i in range(len(parts)):
        yield ".".join(parts[: i + 1])


def _in_order(nodes: Iterable[str], targets: Targets) -> tuple[str, ...]:
    found = set(nodes)
    return tuple(node for node in targets.nodes if node in found)


class _Union:
    """Which nodes must share a device, and who says so."""

    def __init__(self, nodes: Iterable[str]) -> None:
        self._parent = {node: node for node in nodes}
        self._reasons: dict[str, dict[str, None]] = {node: {} for node in self._parent}

    def root(self, node: str) -> str:
        while self._parent[node] != node:
            self._parent[node] = self._parent[self._parent[node]]
            node = self._parent[node]
        return node

    def join(self, group: tuple[str, ...], reason: str) -> None:
        first = self.root(group[0])
        for node in group:
            root = self.root(node)
            if root != first:
                self._parent[root] = first
                self._reasons[first] |= self._reasons[root]
        self._reasons[first][reason] = None

    def reasons(self, node: str) -> str:
        return " and ".join(self._reasons[self.root(node)])


def _checked_pins(pins: Sequence[tuple[Pin, tuple[str, ...]]], union: _Union) -> dict[str, Pin]:
    by_node: dict[str, Pin] = {}
    by_root: dict[str, tuple[str, Pin]] = {}
    for pin, nodes in pins:
        for node in nodes:
            other = by_node.setdefault(node, pin)
            if other.device != pin.device:
                raise SpecError(f"{other!r} and {pin!r} contradict each other: both pin '{node}'")
            first, other = by_root.setdefault(union.root(node), (node, pin))
            if other.device != pin.device:
                raise SpecError(
                    f"{other!r} and {pin!r} contradict {union.reasons(node)}: "
                    f"'{first}' and '{node}' must share a device"
                )
    return by_node


def _check_apart(
    separate: Separate,
    groups: Sequence[tuple[str, ...]],
    union: _Union,
    pinned: Mapping[str, Pin],
) -> None:
    owner: dict[str, tuple[int, str]] = {}
    pin_owner: dict[str, tuple[int, str]] = {}
    for i, group in enumerate(groups):
        for node in group:
            j, other = owner.setdefault(union.root(node), (i, node))
            if i != j:
                raise SpecError(
                    f"{separate!r} contradicts {union.reasons(node)}: "
                    f"'{other}' and '{node}' cannot be both apart and together"
                )
            if node not in pinned:
                continue
            j, other = pin_owner.setdefault(str(pinned[node].device), (i, node))
            if i != j:
                pins = " and ".join(dict.fromkeys([repr(pinned[other]), repr(pinned[node])]))
                raise SpecError(
                    f"{separate!r} contradicts {pins}: "
                    f"'{other}' and '{node}' are both pinned to '{pinned[node].device}'"
                )
