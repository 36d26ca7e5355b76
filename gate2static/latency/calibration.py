"""Calibrates a latency table: what kernels cost in a whole network beyond what they cost alone.

Alone, a kernel finds its tensors and weights in the nearest cache, and the machine as fast as it was just then. Another
network on the same machine makes it faster or slower by a tenth from minute to minute, and kernels are measured one
after another. Four numbers say what that leaves out: how much longer layers take than alone, and what only moves or
maps tensors; what reading a weight byte from memory costs; and what each operator costs besides. They are few, bounded,
and drawn towards plain guesses, so one network that was measured whole is enough.
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

_ALONE = {"layer_factor": 1.0, "movement_factor": 1.0, "ms_per_weight_byte": 0.0, "launch_ms": 0.0}
"""The numbers of a table that is not calibrated."""

# One entry for each of the four numbers: what is likely to be added (50 GB/s for weights, a microsecond per launch),
# and what may be added at least, since no machine drifts further.
_SCALES = np.array([0.1, 1.0, 2e-8, 1e-3])
_LEAST = np.array([-0.25, -0.25, 0.0, 0.0])

_PULL = 0.01
"""The weight of the guesses: one that is off by its scale counts as much as an error of 1 % in one network."""


def calibrated(table: LatencyTable, measured: Sequence[tuple[nn.Module, tuple[Tensor, ...], float]]) -> LatencyTable:
    """Returns a table that also knows what its kernels cost in whole networks.

    Args:
        table: The table of the kernels alone.
        measured: Networks with their inputs and their latency in ms, on the table's device, backend and threads.

    Raises:
        BenchError: No network is given, or a layer of one was not measured.
    """
    if not measured:
        raise BenchError("nothing to calibrate with: give at least one network that was measured whole")
    alone = table.model_copy(update=_ALONE)
    # Relative errors: what is missing of each network's latency, and what would add how much of it.
    missing = []
    shares = []
    for network, inputs, ms in measured:
        missing.append((ms - alone.predict_ms(network, inputs)) / ms)
        shares.append(_per_unit_added(alone, network, inputs) / ms)
    # (networks + 4, 4): the guesses are four more equations, which say that nothing is added.
    features = np.vstack([np.array(shares) * _SCALES, _PULL * np.eye(len(_ALONE))])
    targets = [*missing, *[0.0] * len(_ALONE)]
    added = lsq_linear(features, targets, bounds=(_LEAST / _SCALES, np.inf)).x * _SCALES
    update = {name: value + more for (name, value), more in zip(_ALONE.items(), added.tolist(), strict=True)}
    return table.model_copy(update=update)


def _per_unit_added(table: LatencyTable, network: nn.Module, inputs: tuple[Tensor, ...]) -> NDArray[np.float64]:
    """Returns by how many ms the latency grows with each of the four numbers.

    These are the time of layers in ms, the time of all other kernels in ms, the bytes of weights, and the number of
    kernels.

    Args:
        table: The table of the kernels alone.
        network: A network in evaluation mode.
        inputs: Its inputs, batch first.
    """
    steps = lower(record(network, inputs), table.backend)
    kernels = [kernel for step in steps for kernel in step.kernels]
    layers_ms = sum(table.kernel_ms(kernel) for kernel in kernels if is_layer(kernel))
    others_ms = sum(table.kernel_ms(kernel) for kernel in kernels if not is_layer(kernel))
    weights = sum(weight_bytes(step) for step in steps)
    return np.array([layers_ms, others_ms, weights, len(kernels)])
