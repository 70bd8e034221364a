"""What `nvidia-smi topo -m` printed on machines of other people, as they posted it."""

from __future__ import annotations

LEGEND = """

Legend:

  X    = Self
  PHB  = Connection traversing PCIe as well as a PCIe Host Bridge (typically the CPU)
  PIX  = Connection traversing at most a single PCIe bridge
  NV#  = Connection traversing a bonded set of # NVLinks
"""

# github.com/noonghunna/club-3090/issues/1229: two RTX 5090
TWO_CONSUMER = (
    "\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\n"
    "GPU0\t X \tPHB\t0-63\t0\t\tN/A\n"
    "GPU1\tPHB\t X \t0-63\t0\t\tN/A\n" + LEGEND
)

# github.com/kubernetes/kubernetes/issues/53497: the first four of eight GPUs
SWITCHES = """\
        GPU0    GPU1    GPU2    GPU3    GPU4    GPU5    GPU6    GPU7    mlx4_0  CPU Affinity
GPU0     X      PIX     PHB     PHB     SYS     SYS     SYS     SYS     PHB     0-9,20-29
GPU1    PIX      X      PHB     PHB     SYS     SYS     SYS     SYS     PHB     0-9,20-29
GPU2    PHB     PHB      X      PIX     SYS     SYS     SYS     SYS     PHB     0-9,20-29
GPU3    PHB     PHB     PIX      X      SYS     SYS     SYS     SYS     PHB     0-9,20-29
"""

# github.com/NVIDIA/nccl/issues/1505: the first two of eight GPUs of a DGX A100
NVSWITCH = """\
$ nvidia-smi topo -m
        GPU0    GPU1    GPU2    GPU3    GPU4    GPU5    GPU6    GPU7    NIC0    NIC1    CPU Affinity    NUMA Affinity   GPU NUMA ID
GPU0     X      NV12    NV12    NV12    NV12    NV12    NV12    NV12    PXB     PXB     48-63,176-191   3               N/A
GPU1    NV12     X      NV12    NV12    NV12    NV12    NV12    NV12    PXB     PXB     48-63,176-191   3               N/A
"""  # noqa: E501

SLOTS = """\
0, GPU-cuda:1, 4, 16
1, GPU-cuda:0, 3, 16
2, GPU-cuda:2, 4, 8
3, GPU-cuda:3, [N/A], [N/A]
"""
"""`nvidia-smi --query-gpu=...`, with UUIDs that virtual GPUs answer to, in another order."""
