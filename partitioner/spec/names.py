"""Names that users spell: finding them by pattern, and the nearest ones where none is found."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from partitioner.errors import SpecError

OBJECTIVES = ("latency", "throughput", "memory")
MODES = ("train", "inference")


def nearest(name: str, known: Iterable[str], count: int = 3) -> tuple[str, ...]:
    """The names in `known` that look most like `name`, best first; maybe none."""
    by_lower = {other.lower(): other for other in known}
    core = name.lower().strip("*?.")
    longer = [other for other in by_lower if len(core) > 2 and core in other][:count]
    close = difflib.get_close_matches(name.lower(), by_lower, n=count, cutoff=0.5)
    return tuple(by_lower[other] for other in dict.fromkeys([*longer, *close]))[:count]


def hint(name: str, known: Sequence[str]) -> str:
    """How to go on from an unknown name: `"did you mean 'a' or 'b'?"`, or what there is."""
    close = nearest(name, known)
    if close:
        return f"did you mean {_listed(close, 'or')}?"
    if not known:
        return "there is none"
    more = f" and {len(known) - 8} more" if len(known) > 8 else ""
    return f"there is {', '.join(repr(other) for other in known[:8])}{more}"


def check_name(what: str, name: str, known: Sequence[str]) -> str:
    """`name`, when it is one of `known`.

    Raises:
        SpecError: it is not; the message has the nearest spelling. `what` says what it names.
    """
    if name not in known:
        raise SpecError(f"unknown {what} {name!r}; {hint(str(name), known)}")
    return name


def match(pattern: str, names: Iterable[str]) -> tuple[str, ...]:
    """The names that a glob matches, in their order; `*` matches dots too.

    Raises:
        SpecError: it matches none; the message has the nearest names.
    """
    known = tuple(names)
    found = tuple(name for name in known if fnmatchcase(name, pattern))
    if not found:
        raise SpecError(f"the pattern {pattern!r} matches nothing; {hint(pattern, known)}")
    return found


def enclosing(path: str) -> list[str]:
    """The modules around a qualified name, outermost first: from the model, `""`, to itself."""
    parts = path.split(".") if path else []
    return [".".join(parts[:count]) for count in range(len(parts) + 1)]


def _listed(names: Sequence[str], conjunction: str) -> str:
    quoted = [repr(name) for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {conjunction} {quoted[-1]}"
