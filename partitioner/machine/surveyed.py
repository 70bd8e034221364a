"""`surveyed`: an inventory with what was measured in place of what was told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from partitioner.errors import SpecError
from partitioner.machine.inventory import Inventory
from partitioner.machine.measure import LinkMeasurement, damage
from partitioner.spec import HOST, Cluster, Link


def surveyed(inventory: Inventory, measurements: Sequence[LinkMeasurement]) -> Inventory:
    """Measured links in place of those that were read.

    What arrived changed between two GPUs is a broken link. A GPU that cannot be reached from the
    host, or that the host cannot be reached from, is left out. GPUs without peer access keep their
    links to the host in common with all that is staged over it.

    Raises:
        SpecError: no GPU is left.
    """
    unusable = {
        name: measurement
        for measurement in measurements
        if measurement.damaged_nbytes and HOST in (measurement.source, measurement.destination)
        for name in (measurement.source, measurement.destination)
        if name != HOST
    }
    warnings = [
        f"'{name}' is left out: {damage(measurement)} between it and the host"
        for name, measurement in unusable.items()
    ]
    read = inventory.cluster
    devices = tuple(device for device in read.devices if device.name not in unusable)
    if not devices:
        raise SpecError(f"no GPU can be used: {'; '.join(warnings)}")
    staged = {pair for link in read.links if link.via for pair in link.directions}
    notes: dict[Link, str] = {}
    for measurement in measurements:
        pair = measurement.source, measurement.destination
        if not unusable.keys().isdisjoint(pair):
            continue
        link = Link(
            source=measurement.source,
            destination=measurement.destination,
            bandwidth=_rounded(measurement.bytes_per_second),
            latency=_rounded(measurement.latency_seconds),
            shared=_shared(read, pair, staged),
        )
        note = f"measured, quartiles {100 * measurement.spread:.0f}% of the median apart"
        if pair in staged:
            note += "; no peer access, over the host"
        if measurement.damaged_nbytes:
            link = Link(source=link.source, destination=link.destination, broken=True)
            note = damage(measurement)
            warnings.append(
                f"the {link} is broken: {note}; it is marked in the cluster file, and plans move "
                "data there over the host"
            )
        notes[link] = note
    cluster = replace(read, devices=devices, links=tuple(notes))
    return Inventory(cluster, notes, (*inventory.warnings, *warnings))


def _rounded(figure: float) -> float:
    """Three digits, which is more than a measurement is worth."""
    return float(f"{figure:.3g}")


def _shared(read: Cluster, pair: tuple[str, str], staged: set[tuple[str, str]]) -> tuple[str, ...]:
    """What the link had in common with others, and the hops of what is staged."""
    source, destination = pair
    if pair in staged:
        hops = (source, HOST), (HOST, destination)
        return tuple(name for hop in hops for name in _shared(read, hop, staged))
    declared = read.declared_link(*pair)
    if declared is not None and declared.shared:
        return declared.lanes
    if HOST in pair and any(
        name in staged_pair for name in pair if name != HOST for staged_pair in staged
    ):
        return (f"{source} → {destination}",)
    return ()
