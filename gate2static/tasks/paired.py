"""A paired test of two networks on the same images, for any metric.

The relative gain θ of one network over another is a function of sums over images. Its *pseudo-values* are those of the
jackknife (Tukey), θ - (n - 1) (θ₋ᵢ - mean θ₋), with θ₋ᵢ the gain without block i. They are nearly independent, and θ is
their mean; where a metric is a mean over images, they are the differences of a paired t-test. A one-sided t-test of
them against minus the margin says how likely such a gain is where the network loses the margin or more. The jackknife's
correction of its bias is left out: for a median it is noise.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from gate2static.tasks.blocks import Measured, combined, computed, new_metrics
from gate2static.tasks.safety import relative_gains
from gate2static.tasks.task import Task

_CONFIDENCE = 0.95


class PairedTest(BaseModel):
    """The gain of a network in one metric over the single-task network.

    Attributes:
        gain: The relative gain as a fraction; positive is better.
        low: The lower end of its confidence interval of 95 %; None where images cannot say.
        high: The upper end of that interval; None where images cannot say.
        p_value: The probability of such a gain, or a larger one, where the network loses the margin.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gain: float
    low: float | None = None
    high: float | None = None
    p_value: float


class Replicates:
    """The metrics of one task on a split, and on that split without each of its blocks.

    Args:
        task: The task.
        measured: What was measured of it, in at least two blocks.
    """

    def __init__(self, task: Task, measured: Measured) -> None:
        metrics = new_metrics(task)
        states = measured.states
        self.images = measured.images
        total = states[0]
        for state in states[1:]:
            total = combined(total, state, sign=1)
        self.whole = computed(metrics, total)
        self.without = [computed(metrics, combined(total, state, sign=-1)) for state in states]


def paired_tests(
    network: Replicates, single: Replicates, task: Task, *, margin: float = 0.0
) -> dict[str, PairedTest]:
    """Compares a network with the single-task network in every metric of a task.

    Args:
        network: The network's metrics.
        single: Those of the single-task network on the same blocks.
        task: The task.
        margin: The loss to test against, as a share of the single-task network's metric.

    Returns:
        Metric -> its test. A metric that is 0 with the single-task network is left out: nothing is relative to it.
    """
    gains = _gains(network.whole, single.whole, task)
    replicates = [_gains(a, b, task) for a, b in zip(network.without, single.without, strict=True)]
    tests = {}
    for name, gain in gains.items():
        # A metric may be 0, or not exist, without a certain block.
        of_metric = np.array([replicate.get(name, np.nan) for replicate in replicates])
        tests[name] = _test(gain, of_metric, images=network.images, margin=margin)
    return tests


def _gains(metrics: Mapping[str, float], single: Mapping[str, float], task: Task) -> dict[str, float]:
    return relative_gains({task.name: metrics}, {task.name: single}, (task,))[task.name]


def _test(gain: float, without: NDArray[np.float64], *, images: int, margin: float) -> PairedTest:
    """Returns the test of one metric.

    Args:
        gain: The gain on all blocks.
        without: The gains without each block, (blocks,).
        images: The number of images that count.
        margin: The loss to test against.
    """
    from scipy import stats  # it takes long to import, and only training needs it

    if not np.isfinite(without).all():
        return PairedTest(gain=gain, p_value=1.0)
    count = len(without)
    pseudo_values = gain - (count - 1) * (without - without.mean())
    if np.ptp(pseudo_values) <= 1e-9 * count:
        # No image tells the networks apart; were the margin lost on single images, n images would miss all of them with
        # this probability.
        return PairedTest(gain=gain, p_value=(1 - margin) ** images if abs(gain) <= 1e-9 else float(gain <= -margin))
    low, high = stats.ttest_1samp(pseudo_values, 0.0).confidence_interval(_CONFIDENCE)
    p_value = stats.ttest_1samp(pseudo_values, -margin, alternative="greater").pvalue
    return PairedTest(gain=gain, low=float(low), high=float(high), p_value=float(p_value))
