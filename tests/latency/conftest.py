"""Tables that were made up."""

import pytest

from gate2static.latency import LatencyTable
from gate2static.latency.grid import Grid

BYTES = (10**3, 10**7)


@pytest.fixture
def table() -> LatencyTable:
    """Convolutions cost a nanosecond a MAC, everything else one a byte, a forward pass a millisecond."""
    axes = ((16, 4096), (4, 64), (16, 64))
    convolutions = (
        Grid(
            kind=f"convolution {k}×{k}/1",
            axes=axes,
            ms=tuple(1e-6 * k * k * n * i * o for n in axes[0] for i in axes[1] for o in axes[2]),
        )
        for k in (1, 3)
    )
    kinds = ("add", "multiply", "relu", "concat", "slice", "gather", "reorder", "reduce")
    others = (
        Grid(kind=kind, axes=((1, 1000), (4, 10**6)), ms=(4e-6, 1.0, 4e-3, 1e3))
        if kind in ("concat", "slice", "gather")
        else Grid(kind=kind, axes=(BYTES,), ms=tuple(1e-6 * size for size in BYTES))
        for kind in kinds
    )
    return LatencyTable(
        name="made up", backend="onnxruntime", threads=1, overhead_ms=1.0, grids=(*convolutions, *others)
    )
