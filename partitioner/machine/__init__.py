"""What is in this machine: its GPUs, how they are joined, and what its links really do.

::

    topology.py   nvidia-smi's tables ──► Topology
    inventory.py  torch.cuda + Topology ──► Inventory: a Cluster, and where each figure is from
    measure.py    copies of random bytes ──► LinkMeasurement of each pair
    surveyed.py   Inventory + measurements ──► Inventory, broken links marked
"""

from partitioner.machine.inventory import Inventory, inventory
from partitioner.machine.measure import LinkMeasurement, measure_links
from partitioner.machine.surveyed import surveyed
from partitioner.machine.topology import Slot, Topology, parse_slots, parse_topology, read_topology

__all__ = [
    "Inventory",
    "LinkMeasurement",
    "Slot",
    "Topology",
    "inventory",
    "measure_links",
    "parse_slots",
    "parse_topology",
    "read_topology",
    "surveyed",
]
