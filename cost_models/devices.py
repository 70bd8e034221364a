"""The catalogue: kinds of devices as their vendors describe them.

Every figure is the vendor's own, dense (without structured sparsity; where a datasheet prints the
sparse figure alone, half of it), in FLOP/s by the dtype of the operands:

- `float64`: tensor (matrix) cores where the kind has them for it, as cuBLAS uses them.
- `float32`: the plain cores, since PyTorch leaves TF32 off for matrix products.
- `tfloat32`: float32 operands rounded inside the tensor cores, as PyTorch lets convolutions do.
- `bfloat16`, `float16`: tensor cores with float32 accumulation, as PyTorch asks for. GeForce cards
  run these at half the rate that is advertised for float16 accumulation.
- `int8`: tensor cores.

A dtype that is missing is not native to the kind; `RooflineCostModel` says what it falls back on.
The FP64 rate of GA10x, AD10x and GB20x is 1/64 of FP32, of TU10x and GP10x 1/32 (whitepapers).

Memory is in GiB per advertised GB, as NVIDIA's capacities are; what CUDA reports as usable is 1 to
3% less. A CPU's is the most that its socket takes: declare what the machine has. `launch_seconds`
is no datasheet figure: it is the order of what one eager PyTorch operator costs host and driver.

Kinds in `CHECKED` had every figure compared with a copy or a tabulation of the document that is
named. Of the others, at least one figure was not found printed. But for `b200`, the rates of GPUs
of either sort follow from their numbers of units and boost clocks, as the tests reckon them.
"""

from __future__ import annotations

from collections.abc import Mapping

from cost_models.interface import DeviceKind

GPU_LAUNCH_SECONDS = 5e-6
"""Eager dispatch and kernel launch on a GPU, the order of magnitude."""
CPU_LAUNCH_SECONDS = 2e-6
"""Eager dispatch of one operator on a CPU, the order of magnitude."""

CHECKED = frozenset(
    {
        "p100-16gb",
        "v100-16gb",
        "v100-32gb",
        "t4",
        "a40",
        "a100-40gb",
        "a100-80gb",
        "l4",
        "l40s",
        "h100-pcie",
        "h100-sxm",
        "h200",
        "b200",
        "rtx-4090",
        "epyc-9654",
    }
)
"""Kinds of which every figure was found printed elsewhere, too."""

GIB = 2**30
TERA = 1e12
GIGA = 1e9


def _kind(
    name: str,
    device_type: str,
    gib: float,
    gigabytes_per_second: float,
    source: str,
    date: str,
    **teraflops: float,
) -> DeviceKind:
    return DeviceKind(
        name=name,
        type=device_type,
        memory_nbytes=int(gib * GIB),
        flops_per_second={dtype: rate * TERA for dtype, rate in teraflops.items()},
        bytes_per_second=gigabytes_per_second * GIGA,
        launch_seconds=GPU_LAUNCH_SECONDS if device_type == "cuda" else CPU_LAUNCH_SECONDS,
        source=source,
        date=date,
        checked=name in CHECKED,
    )


def _gpu(
    name: str,
    gib: float,
    gigabytes_per_second: float,
    source: str,
    date: str,
    *,
    float64: float,
    float32: float,
    float16: float,
    bfloat16: float | None = None,
    tfloat32: float | None = None,
    int8: float | None = None,
) -> DeviceKind:
    optional = {"tfloat32": tfloat32, "bfloat16": bfloat16, "int8": int8}
    native = {dtype: rate for dtype, rate in optional.items() if rate is not None}
    figures = {"float64": float64, "float32": float32, "float16": float16, **native}
    return _kind(name, "cuda", gib, gigabytes_per_second, source, date, **figures)


def _cpu(
    name: str,
    tib: int,
    cores: int,
    gigahertz: float,
    gigabytes_per_second: float,
    source: str,
    date: str,
    **per_cycle: float,
) -> DeviceKind:
    """A socket: cores, all at base frequency, times operations per core and cycle."""
    rates = {dtype: cores * gigahertz * flops / 1e3 for dtype, flops in per_cycle.items()}
    return _kind(name, "cpu", 1024 * tib, gigabytes_per_second, source, date, **rates)


_DATA_CENTRE = (
    _gpu(
        "p100-16gb", 16, 732, "NVIDIA Tesla P100 datasheet (SXM2)", "2016-10",
        float64=5.3, float32=10.6, float16=21.2,
    ),
    _gpu(
        "v100-16gb", 16, 900, "NVIDIA V100 datasheet (SXM2)", "2020-01",
        float64=7.8, float32=15.7, float16=125.0,
    ),
    _gpu(
        "v100-32gb", 32, 900, "NVIDIA V100 datasheet (SXM2)", "2020-01",
        float64=7.8, float32=15.7, float16=125.0,
    ),
    _gpu(
        "t4", 16, 320, "NVIDIA T4 datasheet", "2019-03",
        float64=0.253, float32=8.1, float16=65.0, int8=130.0,
    ),
    _gpu(
        "a10", 24, 600, "NVIDIA A10 datasheet", "2021-04",
        float64=0.488, float32=31.2, tfloat32=62.5, float16=125.0, bfloat16=125.0, int8=250.0,
    ),
    _gpu(
        "a30", 24, 933, "NVIDIA A30 datasheet", "2021-04",
        float64=10.3, float32=10.3, tfloat32=82.0, float16=165.0, bfloat16=165.0, int8=330.0,
    ),
    _gpu(
        "a40", 48, 696, "NVIDIA A40 datasheet", "2021-03",
        float64=0.585, float32=37.4, tfloat32=74.8, float16=149.7, bfloat16=149.7, int8=299.3,
    ),
    _gpu(
        "a100-40gb", 40, 1555, "NVIDIA A100 datasheet (SXM4 and PCIe)", "2021-06",
        float64=19.5, float32=19.5, tfloat32=156.0, float16=312.0, bfloat16=312.0, int8=624.0,
    ),
    _gpu(
        "a100-80gb", 80, 2039, "NVIDIA A100 datasheet (SXM4; PCIe has 1,935 GB/s)", "2021-06",
        float64=19.5, float32=19.5, tfloat32=156.0, float16=312.0, bfloat16=312.0, int8=624.0,
    ),
    _gpu(
        "l4", 24, 300, "NVIDIA L4 datasheet (half of the sparse figures)", "2023-03",
        float64=0.473, float32=30.3, tfloat32=60.0, float16=121.0, bfloat16=121.0, int8=242.5,
    ),
    _gpu(
        "l40s", 48, 864, "NVIDIA L40S datasheet (FP16 dense is 1% below half of sparse)",
        "2023-08",
        float64=1.431, float32=91.6, tfloat32=183.0, float16=362.05, bfloat16=362.05, int8=733.0,
    ),
    _gpu(
        "h100-pcie", 80, 2000, "NVIDIA H100 datasheet (PCIe; half of the sparse figures)",
        "2023-03",
        float64=51.0, float32=51.0, tfloat32=378.0, float16=756.5, bfloat16=756.5, int8=1513.0,
    ),
    _gpu(
        "h100-sxm", 80, 3350, "NVIDIA H100 datasheet (SXM5; half of the sparse figures)",
        "2023-03",
        float64=67.0, float32=67.0, tfloat32=494.5, float16=989.5, bfloat16=989.5, int8=1979.0,
    ),
    _gpu(
        "h200", 141, 4800, "NVIDIA H200 datasheet (SXM; half of the sparse figures)", "2024-11",
        float64=67.0, float32=67.0, tfloat32=494.5, float16=989.5, bfloat16=989.5, int8=1979.0,
    ),
    _gpu(
        "b200", 180, 8000,
        "NVIDIA Blackwell Architecture Technical Brief (HGX B200); memory: DGX B200 datasheet",
        "2024-03",
        float64=40.0, float32=80.0, tfloat32=1100.0, float16=2250.0, bfloat16=2250.0, int8=4500.0,
    ),
    _gpu(
        "mi210", 64, 1638.4, "AMD Instinct MI210 datasheet (matrix figures)", "2022-03",
        float64=45.3, float32=45.3, float16=181.0, bfloat16=181.0, int8=181.0,
    ),
    _gpu(
        "mi300x", 192, 5300, "AMD Instinct MI300X datasheet (matrix figures)", "2023-12",
        float64=163.4, float32=163.4, tfloat32=653.7, float16=1307.4, bfloat16=1307.4,
        int8=2614.9,
    ),
)  # fmt: skip

_WORKSTATION = (
    _gpu(
        "quadro-rtx-8000", 48, 672, "NVIDIA Quadro RTX 8000 datasheet", "2019-06",
        float64=0.51, float32=16.3, float16=130.5, int8=261.0,
    ),
    _gpu(
        "rtx-a4000", 16, 448, "NVIDIA RTX A4000 datasheet (half of the sparse figure)", "2021-04",
        float64=0.3, float32=19.2, tfloat32=38.3, float16=76.7, bfloat16=76.7, int8=153.4,
    ),
    _gpu(
        "rtx-a5000", 24, 768, "NVIDIA RTX A5000 datasheet (half of the sparse figure)", "2021-04",
        float64=0.434, float32=27.8, tfloat32=55.5, float16=111.1, bfloat16=111.1, int8=222.2,
    ),
    _gpu(
        "rtx-a6000", 48, 768, "NVIDIA RTX A6000 datasheet; GA102 whitepaper v2, appendix C",
        "2021-01",
        float64=0.605, float32=38.7, tfloat32=77.4, float16=154.8, bfloat16=154.8, int8=309.7,
    ),
    _gpu(
        "rtx-6000-ada", 48, 960, "NVIDIA RTX 6000 Ada datasheet (quarter of the sparse FP8 figure)",
        "2022-12",
        float64=1.423, float32=91.1, tfloat32=182.1, float16=364.2, bfloat16=364.2, int8=728.5,
    ),
)  # fmt: skip

_CONSUMER = (
    _gpu(
        "gtx-1080-ti", 11, 484, "NVIDIA GeForce GTX 1080 Ti product page (FP16 is 1/64 of FP32)",
        "2017-03",
        float64=0.354, float32=11.3, float16=0.177,
    ),
    _gpu(
        "rtx-2080-ti", 11, 616, "NVIDIA Turing whitepaper, appendix A (reference clocks)",
        "2018-09",
        float64=0.42, float32=13.4, float16=53.8, int8=215.2,
    ),
    _gpu(
        "rtx-3080", 10, 760, "NVIDIA GA102 whitepaper v2, table 3 (10 GB)", "2021-01",
        float64=0.465, float32=29.8, tfloat32=29.8, float16=59.5, bfloat16=59.5, int8=238.0,
    ),
    _gpu(
        "rtx-3090", 24, 936, "NVIDIA GA102 whitepaper v2, appendix A", "2021-01",
        float64=0.556, float32=35.6, tfloat32=35.6, float16=71.0, bfloat16=71.0, int8=284.0,
    ),
    _gpu(
        "rtx-4080", 16, 716.8, "NVIDIA Ada whitepaper v2.01, appendix B", "2023-03",
        float64=0.761, float32=48.7, tfloat32=48.7, float16=97.5, bfloat16=97.5, int8=389.9,
    ),
    _gpu(
        "rtx-4090", 24, 1008, "NVIDIA Ada whitepaper v2.01, appendix A", "2023-03",
        float64=1.291, float32=82.6, tfloat32=82.6, float16=165.2, bfloat16=165.2, int8=660.6,
    ),
    _gpu(
        "rtx-5090", 32, 1792, "NVIDIA RTX Blackwell whitepaper v1.1, appendix A", "2025-01",
        float64=1.637, float32=104.8, tfloat32=104.8, float16=209.5, bfloat16=209.5, int8=838.0,
    ),
)  # fmt: skip

_CPUS = (
    _cpu(
        "epyc-7763", 4, 64, 2.45, 204.8,
        "AMD EPYC 7763 product page: 64 cores, 2 x 256-bit FMA, 8 x DDR4-3200", "2021-03",
        float64=16, float32=32,
    ),
    _cpu(
        "epyc-9654", 6, 96, 2.4, 460.8,
        "AMD EPYC 9654 product page: 96 cores, 2 x 256-bit FMA, BF16, 12 x DDR5-4800", "2022-11",
        float64=16, float32=32, bfloat16=64, int8=128,
    ),
    _cpu(
        "xeon-8380", 6, 40, 2.3, 204.8,
        "Intel ARK, Xeon Platinum 8380: 40 cores, 2 x AVX-512 FMA, 8 x DDR4-3200", "2021-04",
        float64=32, float32=64, int8=256,
    ),
    _cpu(
        "xeon-8480", 4, 56, 2.0, 307.2,
        "Intel ARK, Xeon Platinum 8480+: 56 cores, 2 x AVX-512 FMA, AMX (1024 BF16 or 2048 INT8 "
        "operations per core and cycle, multiplications and additions), 8 x DDR5-4800", "2023-01",
        float64=32, float32=64, bfloat16=1024, int8=2048,
    ),
)  # fmt: skip

_GENERIC = (
    _gpu(
        "generic-gpu", 16, 900, "assumed: near the median of this catalogue's GPUs", "2025-01",
        float64=1.0, float32=30.0, tfloat32=75.0, float16=150.0, bfloat16=150.0, int8=300.0,
    ),
    _kind(
        "generic-cpu", "cpu", 16, 51.2,
        "assumed: 8 cores at 3 GHz, 2 x 256-bit FMA, 2 x DDR4-3200", "2025-01",
        float64=0.384, float32=0.768,
    ),
)  # fmt: skip

DEVICE_KINDS: Mapping[str, DeviceKind] = {
    kind.name: kind for kind in (*_DATA_CENTRE, *_WORKSTATION, *_CONSUMER, *_CPUS, *_GENERIC)
}
"""Kinds of devices by name, such as `"a100-40gb"`. `"generic-gpu"` and `"generic-cpu"` stand for
a device of which nothing is known."""
