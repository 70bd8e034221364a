"""A recording and a placement in; a placed module, a readable source or a device map out.

::

    Captured + {node: device}
       │ placed_graph        checked
       ▼
    PlacedGraph ─fold─► whole submodules ─insert_moves─► `.to(...)`, `device=...`
                                                            │ write
                                                            ▼
                               PlacedModule.forward  |  a Python module

Any placement is accepted, from a solver or by hand.
"""

from partitioner.emit.device_map import device_map, map_of
from partitioner.emit.fold import fold
from partitioner.emit.graphs import PlacedGraph, check_placement, placed_graph
from partitioner.emit.modes import placement_of_state
from partitioner.emit.moves import insert_moves
from partitioner.emit.placed import PlacedModule, place
from partitioner.emit.source import source, source_of
from partitioner.emit.split_points import split_points
from partitioner.emit.stages import Readers, StageModule, make_stage

__all__ = [
    "PlacedGraph",
    "PlacedModule",
    "Readers",
    "StageModule",
    "check_placement",
    "device_map",
    "fold",
    "insert_moves",
    "make_stage",
    "map_of",
    "place",
    "placed_graph",
    "placement_of_state",
    "source",
    "source_of",
    "split_points",
]
