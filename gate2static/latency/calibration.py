"""What units cost in a whole network beyond what they cost alone, from networks that were measured whole.

Alone, a unit finds its tensors and weights in the nearest cache. Three numbers say what that leaves out: how much
longer what only moves or maps tensors takes, what reading a weight byte from memory costs, and what each operator costs
besides. They are few, never negative, and drawn towards plain guesses, so one network is enough.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from gate2static.errors import BenchError
from gate2static.latency.lowering import lower
from gate2static.latency.operators import record
from gate2static.latency.table import LatencyTable, is_layer, weight_bytes

_SCALES = np.array([1.0, 2e-8, 1e-3])  # twice as long for movement; 50 GB/s for weights in ms; a microsecond
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
    alone = table.model_copy(update={"movement": 1.0, "ms_per_weight_byte": 0.0, "launch_ms": 0.0})
    rows, targets = [], []
    for network, inputs, ms in measured:
        rows.append(_beyond(alone, network, inputs) / ms)
        targets.append((ms - alone.predict_ms(network, inputs)) / ms)
    solution = _not_negative(np.array(rows) * _SCALES, np.array(targets)) * _SCALES
    movement, per_byte, launch = solution.tolist()
    return table.model_copy(update={"movement": 1.0 + movement, "ms_per_weight_byte": per_byte, "launch_ms": launch})


def _beyond(table: LatencyTable, network: nn.Module, inputs: tuple[Tensor, ...]) -> NDArray[np.float64]:
    """Time of movement in ms, bytes of weights, number of operators that run."""
    steps = lower(record(network, inputs), table.backend)
    units = [unit for step in steps for unit in step.units]
    moving = sum(table.unit_ms(unit) for unit in units if not is_layer(unit))
    return np.array([moving, sum(weight_bytes(step) for step in steps), len(units)])


def _not_negative(features: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares with a pull towards 0; what would be negative is left out, the most negative first."""
    used = list(range(features.shape[1]))
    found = np.zeros(features.shape[1])
    while used:
        stacked = np.vstack([features[:, used], _PULL * np.eye(len(used))])
        solution = np.linalg.lstsq(stacked, np.append(targets, np.zeros(len(used))))[0]
        if (solution >= 0).all():
            found[used] = solution
            break
        used.pop(int(solution.argmin()))
    return found
