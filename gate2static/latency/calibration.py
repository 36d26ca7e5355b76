"""What units cost in a whole network beyond what they cost alone, from networks that were measured whole.

Alone, a unit finds its tensors and weights in the nearest cache, and the machine as fast as it was just then. Four
numbers say what that leaves out: how much longer layers take than alone, and what only moves or maps tensors; what
reading a weight byte from memory costs; and what each operator costs besides. They are few, bounded, and drawn towards
plain guesses, so one network is enough.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear
from torch import Tensor, nn

from gate2static.errors import BenchError
from gate2static.latency.kernels import lower
from gate2static.latency.operators import record
from gate2static.latency.table import LatencyTable, is_layer, weight_bytes

_ALONE = {"layers": 1.0, "movement": 1.0, "ms_per_weight_byte": 0.0, "launch_ms": 0.0}
_SCALES = np.array([0.1, 1.0, 2e-8, 1e-3])  # what is likely to be added; 50 GB/s for weights in ms; a microsecond
_LEAST = np.array([-0.25, -0.25, 0.0, 0.0])  # what may be added at least: no machine drifts further
_PULL = 0.01  # a guess that is off by its scale weighs as much as an error of 1 % in one network


def calibrated(table: LatencyTable, measured: Sequence[tuple[nn.Module, tuple[Tensor, ...], float]]) -> LatencyTable:
    """A table that also knows what its units cost in whole networks.

    Args:
        table: the units alone.
        measured: networks with inputs and their latency in ms, on the table's device, backend and threads.

    Raises:
        BenchError: no network, or a layer that was not measured.
    """
    if not measured:
        raise BenchError("nothing to calibrate with: give at least one network that was measured whole")
    alone = table.model_copy(update=_ALONE)
    rows, targets = [], []
    for network, inputs, ms in measured:
        rows.append(_beyond(alone, network, inputs) / ms)
        targets.append((ms - alone.predict_ms(network, inputs)) / ms)
    features = np.vstack([np.array(rows) * _SCALES, _PULL * np.eye(len(_ALONE))])
    found = lsq_linear(features, [*targets, *[0.0] * len(_ALONE)], bounds=(_LEAST / _SCALES, np.inf)).x * _SCALES
    added = zip(_ALONE.items(), found.tolist(), strict=True)
    return table.model_copy(update={name: value + more for (name, value), more in added})


def _beyond(table: LatencyTable, network: nn.Module, inputs: tuple[Tensor, ...]) -> NDArray[np.float64]:
    """Time of layers in ms, time of movement in ms, bytes of weights, number of operators that run."""
    steps = lower(record(network, inputs), table.backend)
    units = [unit for step in steps for unit in step.units]
    layers = sum(table.unit_ms(unit) for unit in units if is_layer(unit))
    moving = sum(table.unit_ms(unit) for unit in units if not is_layer(unit))
    return np.array([layers, moving, sum(weight_bytes(step) for step in steps), len(units)])
