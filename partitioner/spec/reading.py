"""Devices and links out of text: cluster files (TOML) and the shorthand."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cost_models import DEVICE_KINDS
from partitioner.errors import SpecError
from partitioner.spec.device import Device, device_name
from partitioner.spec.link import Link
from partitioner.spec.names import hint
from partitioner.spec.network import Network, Node
from partitioner.spec.sizes import parse_nbytes

Parts = tuple[tuple[Device, ...], tuple[Link, ...], Network | None]

MOST_DEVICES = 4096
"""The most that a count in a shorthand may say."""

_RANGE = re.compile(r"(\d+)\s*\.\.\s*(\d+)\s*x\s*(.+)")
_COUNTED = re.compile(r"(\d+)\s*x\s*(.+)")
_NUMBER = (str, int, float)
_DEVICE_KEYS: Mapping[str, tuple[type, ...]] = {
    "name": (str,),
    "kind": (str,),
    "memory": (str, int),
    "flops_per_second": _NUMBER,
    "memory_bandwidth": _NUMBER,
}
_LINK_KEYS: Mapping[str, tuple[type, ...]] = {
    "between": (list,),
    "from": (str,),
    "to": (str,),
    "bandwidth": _NUMBER,
    "latency": _NUMBER,
    "via": (str,),
    "shared": (str, list),
    "broken": (bool,),
}
_NODE_KEYS: Mapping[str, tuple[type, ...]] = {
    "count": (int,),
    "devices": (str, list),
    "bandwidth": _NUMBER,
    "latency": _NUMBER,
    "cards": (int,),
}
_NETWORK_KEYS: Mapping[str, tuple[type, ...]] = {"bandwidth": _NUMBER, "latency": _NUMBER}
_WANTED = {
    str: "text",
    int: "whole number",
    float: "number",
    list: "list of names",
    bool: "true or false",
}


def read_cluster_file(path: str | os.PathLike[str]) -> Parts:
    """The `[[device]]`, `[[link]]`, `[[node]]` and `[network]` tables of a TOML file.

    Raises:
        SpecError: the file is missing or damaged (with its line), or has an unknown key, a missing
            key or a value that makes no sense; the message begins with the file's name.
    """
    where = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SpecError(f"cannot read the cluster file '{where}': {reason}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"'{where}' is not valid TOML: {error}") from error
    try:
        return _parts(document)
    except SpecError as error:
        raise SpecError(f"'{where}': {error}") from error


def looks_like_file(text: str) -> bool:
    """Whether a text is meant as the path of a cluster file."""
    return text.endswith(".toml") or os.path.isfile(text)


def read_shorthand(text: str) -> tuple[Device, ...]:
    """Devices of a text such as `"2xa100-40gb"`, `"4x24GiB"` or `"cuda:0=24GiB,cuda:1=16GiB"`.

    Parts between commas may be mixed; counted ones are GPUs numbered on from those before.

    Raises:
        SpecError: a part cannot be read.
    """
    devices: list[Device] = []
    for part in (part.strip() for part in text.split(",")):
        if counted := _COUNTED.fullmatch(part):
            count, what = int(counted[1]), counted[2].strip()
            if not 1 <= count <= MOST_DEVICES:
                raise SpecError(f"{part!r}: the count must be from 1 to {MOST_DEVICES}")
            start = sum(device.name.startswith("cuda:") for device in devices)
            names = [f"cuda:{start + i}" for i in range(count)]
            devices += [_described(name, what, part) for name in names]
        elif "=" in part:
            name, _, what = part.partition("=")
            devices.append(_described(name.strip(), what.strip(), part))
        else:
            devices.append(Device(_bare_name(part, text)))
    return tuple(devices)


def counted(text: str) -> tuple[str, ...]:
    """The shorthands that a range such as `"1..8x24GiB"` stands for; any other text is itself.

    Raises:
        SpecError: the range is empty, or begins with no device.
    """
    found = _RANGE.fullmatch(text.strip())
    if found is None:
        return (text,)
    first, last, what = int(found[1]), int(found[2]), found[3].strip()
    if not 1 <= first <= last <= MOST_DEVICES:
        raise SpecError(
            f"{text!r}: a range goes from a smaller count to a larger one, from 1 to {MOST_DEVICES}"
        )
    return tuple(f"{count}x{what}" for count in range(first, last + 1))


def _bare_name(part: str, text: str) -> str:
    try:
        return device_name(part)
    except SpecError as error:
        raise SpecError(
            f"cannot read {text!r} as devices; write names ('cuda:0,cuda:1'), a count of a kind or "
            "of a size ('2xa100-40gb', '4x24GiB'), names with sizes ('cuda:0=24GiB,cuda:1=16GiB') "
            f"or the path of a cluster file ('cluster.toml'). {error}"
        ) from error


def _described(name: str, what: str, part: str) -> Device:
    """A device of the kind or the memory that `what` says."""
    if what in DEVICE_KINDS:
        return Device(name, kind=what)
    if not what[:1].isdigit() and what[:1] not in tuple("+-."):
        raise SpecError(f"unknown kind {what!r} in {part!r}; {hint(what, tuple(DEVICE_KINDS))}")
    if not what[-1].isalpha():
        raise SpecError(f"the memory in {part!r} has no unit; write for example '{part}GiB'")
    try:
        return Device(name, memory=parse_nbytes(what))
    except SpecError as error:
        raise SpecError(f"{part!r}: {error}") from error


def _parts(document: Mapping[str, Any]) -> Parts:
    _check_keys(document, ("device", "link", "node", "network"), "cluster file")
    devices = [_device(table, i + 1) for i, table in enumerate(_tables(document, "device"))]
    links = [_link(table, i + 1) for i, table in enumerate(_tables(document, "link"))]
    nodes: list[Node] = []
    for i, table in enumerate(_tables(document, "node")):
        more, own = _nodes(table, i + 1, len(devices))
        nodes += more
        devices += own
    if not devices:
        raise SpecError(
            "there is no device; write a [[device]] table with a name for each, or a [[node]] "
            "table for equal machines"
        )
    return tuple(devices), tuple(links), _network(document, nodes)


def _nodes(table: object, number: int, taken: int) -> tuple[list[Node], list[Device]]:
    """The nodes of one table, and the devices that it declares itself, numbered on from `taken`."""
    where = f"node {number}"
    values = _table(table, _NODE_KEYS, where)
    _require(values, "devices", where)
    _require(values, "bandwidth", where)
    count, inside = values.pop("count", 1), values.pop("devices")
    if isinstance(inside, list):
        if count != 1:
            raise SpecError(f"{where}: devices with names are in one node; leave out 'count'")
        return [Node(tuple(inside), **values)], []
    if not _COUNTED.fullmatch(inside):
        raise SpecError(f"{where}: devices must be a count of a kind or size, such as '8xh200'")
    one = read_shorthand(inside)
    if not 1 <= count * len(one) <= MOST_DEVICES:
        raise SpecError(f"{where}: there must be from 1 to {MOST_DEVICES} devices in all")
    devices = [
        replace(device, name=f"cuda:{taken + i * len(one) + k}")
        for i in range(count)
        for k, device in enumerate(one)
    ]
    names = [device.name for device in devices]
    nodes = [Node(tuple(names[i * len(one) : (i + 1) * len(one)]), **values) for i in range(count)]
    return nodes, devices


def _network(document: Mapping[str, Any], nodes: list[Node]) -> Network | None:
    """What joins the nodes; of a single one, nothing has to be said."""
    if "network" not in document:
        if len(nodes) > 1:
            raise SpecError(
                f"there are {len(nodes)} nodes; write a [network] table with the bandwidth of "
                "their network cards"
            )
        return Network(tuple(nodes), nodes[0].bandwidth, nodes[0].latency) if nodes else None
    values = _table(document["network"], _NETWORK_KEYS, "network")
    _require(values, "bandwidth", "network")
    if not nodes:
        raise SpecError("network: there is no [[node]] table for it to join")
    return Network(tuple(nodes), **values)


def _device(table: object, number: int) -> Device:
    where = f"device {number}"
    if isinstance(table, dict) and isinstance(table.get("name"), str):
        where = f"device '{table['name']}'"
    values = _table(table, _DEVICE_KEYS, where)
    _require(values, "name", where)
    return Device(**values)


def _link(table: object, number: int) -> Link:
    where = f"link {number}"
    values = _table(table, _LINK_KEYS, where)
    if "from" in values or "to" in values:
        _require(values, "from", where)
        _require(values, "to", where)
    else:
        _require(values, "between", where)
    if not ("via" in values or values.get("broken")):
        _require(values, "bandwidth", where)
    names = {"from": "source", "to": "destination"}
    return Link(**{names.get(key, key): value for key, value in values.items()})


def _tables(document: Mapping[str, Any], key: str) -> list[Any]:
    tables = document.get(key, [])
    if not isinstance(tables, list):
        raise SpecError(f"'{key}' must be written as [[{key}]], once for each {key}")
    return tables


def _table(table: object, types: Mapping[str, tuple[type, ...]], where: str) -> dict[str, Any]:
    """A table whose keys are known and whose values are of their types."""
    if not isinstance(table, dict):
        raise SpecError(f"{where} must be a table of keys, not {table!r}")
    _check_keys(table, tuple(types), where)
    for key, value in table.items():
        if type(value) not in types[key]:
            kinds = " or ".join(_WANTED[kind] for kind in types[key])
            if key == "between":
                kinds = "list of two names"
            raise SpecError(f"{where}: '{key}' must be a {kinds}, not {value!r}")
    return dict(table)


def _require(table: Mapping[str, Any], key: str, where: str) -> None:
    if key not in table:
        raise SpecError(f"{where}: the key '{key}' is missing")


def _check_keys(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            raise SpecError(f"{where}: unknown key '{key}'; {hint(key, known)}")
