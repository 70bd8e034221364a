"""What an operator, a device and a link cost. Knows tensors, never graphs, solvers or plans."""

from cost_models.devices import DEVICE_KINDS
from cost_models.errors import CostModelError
from cost_models.interface import CostModel, DeviceKind, OperatorCall
from cost_models.kernels import is_bandwidth_bound
from cost_models.links import (
    DEFAULT_LINK,
    LINK_KINDS,
    LinkKind,
    has_peer_access,
    nvlink_bytes_per_second,
    pcie_bytes_per_second,
)
from cost_models.machine import kind_by_product_name, local_device
from cost_models.measured import MeasuredCostModel
from cost_models.operators import Observation, OperatorRecorder, observe
from cost_models.roofline import FALLBACKS, RooflineCostModel
from cost_models.signatures import rebuild
from cost_models.timing import Measurement

__all__ = [
    "DEFAULT_LINK",
    "DEVICE_KINDS",
    "FALLBACKS",
    "LINK_KINDS",
    "CostModel",
    "CostModelError",
    "DeviceKind",
    "LinkKind",
    "MeasuredCostModel",
    "Measurement",
    "Observation",
    "OperatorCall",
    "OperatorRecorder",
    "RooflineCostModel",
    "has_peer_access",
    "is_bandwidth_bound",
    "kind_by_product_name",
    "local_device",
    "nvlink_bytes_per_second",
    "observe",
    "pcie_bytes_per_second",
    "rebuild",
]
