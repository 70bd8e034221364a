"""What the user declares goes in as texts and names; checked, frozen types come out."""

from partitioner.spec.cluster import Cluster
from partitioner.spec.constraints import (
    Colocate,
    Constraint,
    Contiguous,
    Demands,
    Pin,
    Separate,
    Targets,
    parse_constraint,
    resolve,
)
from partitioner.spec.device import (
    ASSUMED_CPU_KIND,
    ASSUMED_KIND,
    Device,
    device_name,
)
from partitioner.spec.enlarge import most_roomy, with_twins
from partitioner.spec.link import ASSUMED_LINK, HOST, Link, is_host
from partitioner.spec.names import (
    MODES,
    OBJECTIVES,
    check_name,
    enclosing,
    hint,
    match,
    nearest,
)
from partitioner.spec.network import Network, Node
from partitioner.spec.reading import counted
from partitioner.spec.sizes import (
    exact_nbytes,
    format_bandwidth,
    format_flops,
    format_nbytes,
    format_seconds,
    parse_bandwidth,
    parse_flops,
    parse_nbytes,
    parse_seconds,
)

__all__ = [
    "ASSUMED_CPU_KIND",
    "ASSUMED_KIND",
    "ASSUMED_LINK",
    "HOST",
    "MODES",
    "OBJECTIVES",
    "Cluster",
    "Colocate",
    "Constraint",
    "Contiguous",
    "Demands",
    "Device",
    "Link",
    "Network",
    "Node",
    "Pin",
    "Separate",
    "Targets",
    "check_name",
    "counted",
    "device_name",
    "enclosing",
    "exact_nbytes",
    "format_bandwidth",
    "format_flops",
    "format_nbytes",
    "format_seconds",
    "hint",
    "is_host",
    "match",
    "most_roomy",
    "nearest",
    "parse_bandwidth",
    "parse_constraint",
    "parse_flops",
    "parse_nbytes",
    "parse_seconds",
    "resolve",
    "with_twins",
]
