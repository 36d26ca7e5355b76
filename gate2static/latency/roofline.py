"""Rooflines: latency estimated from a device's data sheet.

Each operator takes as long as its arithmetic or its memory traffic, whichever is longer, and a launch (S. Williams,
A. Waterman, D. Patterson: Roofline, CACM 52(4), 2009). Peaks are never reached, and operators that an engine fuses or
takes for views are counted like others. So this gives the order of magnitude and ranks networks of one kind, and is
labelled as estimated wherever it is shown; a measured table predicts latencies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from gate2static.latency.model import LatencyModel, OperatorCost, Precision, described
from gate2static.latency.operators import Operator

_WIDTHS: Mapping[Precision, int] = {"fp32": 32, "fp16": 16, "int8": 8}
"""Precision -> the bits of an element."""


@dataclass(frozen=True, kw_only=True)
class Roofline(LatencyModel):
    """A device as its data sheet describes it.

    Attributes:
        name: The name of the device.
        peak_macs_per_s: Width of an element in bits -> the peak of MACs per second. A width that is not listed runs at
            the peak of the next wider one.
        bytes_per_s: The memory bandwidth in bytes per second.
        launch_s: The time in seconds that starting one operator costs when operators are launched back to back.
        precision: What floating-point operators compute in; None where it is the network's dtype.
    """

    estimated: ClassVar[bool] = True  # type: ignore[misc]

    name: str
    peak_macs_per_s: Mapping[int, float]
    bytes_per_s: float
    launch_s: float
    precision: Precision | None = None

    def at(self, precision: Precision) -> "Roofline":
        """Returns the roofline of a precision."""
        return replace(self, precision=precision)

    def costs(self, operators: Sequence[Operator]) -> tuple[OperatorCost, ...]:
        """Returns the costs of the operators of one forward pass, see `LatencyModel`."""
        return tuple(self._cost(operator) for operator in operators)

    def _cost(self, operator: Operator) -> OperatorCost:
        width = operator.dtype.itemsize * 8
        computed = _WIDTHS[self.precision] if self.precision and operator.dtype.is_floating_point else width
        arithmetic_s = operator.macs / self._peak(computed)
        traffic_s = operator.size_bytes * computed / width / self.bytes_per_s
        return OperatorCost(
            operator=operator.name,
            shapes=described(operator),
            ms=1e3 * (max(arithmetic_s, traffic_s) + self.launch_s),
            macs=operator.macs,
            note="arithmetic" if arithmetic_s > traffic_s else "memory",
        )

    def _peak(self, bits: int) -> float:
        """Returns the peak of MACs per second for elements of so many bits."""
        wide_enough = [width for width in self.peak_macs_per_s if width >= bits]
        return self.peak_macs_per_s[min(wide_enough, default=max(self.peak_macs_per_s))]


# A MAC is two of a data sheet's FLOP or OP. Peaks are dense ones (data sheets of NVIDIA's newer parts give sparse ones,
# twice as high). float32 on Ampere and later runs in TF32 on tensor cores only if asked to, so its peak is the CUDA
# cores'. Launch costs are not on data sheets: 2 µs is what back-to-back launches of small kernels in a CUDA graph or an
# engine take on a server GPU, twice that behind an embedded CPU.
_T = 1e12
_G = 1e9

_DEVICES = (
    Roofline(  # NVIDIA Jetson AGX Orin 64 GB data sheet DS-10662-001: 5.3 TFLOPS fp32; 170 sparse INT8 TOPS (GPU)
        name="jetson-orin-agx",
        peak_macs_per_s={32: 5.3 / 2 * _T, 16: 42.5 / 2 * _T, 8: 85 / 2 * _T},
        bytes_per_s=204.8 * _G,
        launch_s=4e-6,
    ),
    Roofline(  # NVIDIA Jetson Orin Nano 8 GB data sheet DS-11105-001: 1024 cores at 625 MHz; 40 sparse INT8 TOPS
        name="jetson-orin-nano",
        peak_macs_per_s={32: 1.28 / 2 * _T, 16: 10 / 2 * _T, 8: 20 / 2 * _T},
        bytes_per_s=68 * _G,
        launch_s=4e-6,
    ),
    Roofline(  # NVIDIA T4 tensor core GPU data sheet: 8.1 TFLOPS fp32, 65 fp16, 130 INT8 TOPS, 320 GB/s
        name="t4",
        peak_macs_per_s={32: 8.1 / 2 * _T, 16: 65 / 2 * _T, 8: 130 / 2 * _T},
        bytes_per_s=320 * _G,
        launch_s=2e-6,
    ),
    Roofline(  # NVIDIA A100 80 GB SXM data sheet: 19.5 TFLOPS fp32, 312 fp16, 624 INT8 TOPS, 2,039 GB/s
        name="a100",
        peak_macs_per_s={64: 9.7 / 2 * _T, 32: 19.5 / 2 * _T, 16: 312 / 2 * _T, 8: 624 / 2 * _T},
        bytes_per_s=2039 * _G,
        launch_s=2e-6,
    ),
    Roofline(  # NVIDIA H100 SXM data sheet: 67 TFLOPS fp32, 1,979 fp16 and 3,958 INT8 TOPS sparse, 3.35 TB/s
        name="h100",
        peak_macs_per_s={64: 34 / 2 * _T, 32: 67 / 2 * _T, 16: 989.5 / 2 * _T, 8: 1979 / 2 * _T},
        bytes_per_s=3350 * _G,
        launch_s=2e-6,
    ),
    Roofline(  # two x86 cores at 3 GHz with two 256-bit FMA units each (16 fp32 MACs a cycle), two DDR4-3200 channels
        name="cpu-2-core",
        peak_macs_per_s={64: 48 * _G, 32: 96 * _G},
        bytes_per_s=51.2 * _G,
        launch_s=1e-6,
    ),
)
DEVICES: Mapping[str, Roofline] = {device.name: device for device in _DEVICES}
"""Name of a device -> its roofline, from its data sheet."""

ALIASES: Mapping[str, str] = {"orin": "jetson-orin-agx", "orin-agx": "jetson-orin-agx", "orin-nano": "jetson-orin-nano"}
"""Short name -> the name of a device."""
