"""The comparison of a gated and a static network, in float64 and in the dtype that will be deployed."""

import math
from collections.abc import Mapping, Sequence

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from gate2static.errors import VerificationError
from gate2static.gates.model import GatedModel
from gate2static.static.model import StaticModel
from gate2static.verify.difference import Difference, difference
from gate2static.verify.running import run_gated, run_static

_EXACT = 1e-9
"""The tolerance in float64, relative to the output's scale."""
_ROUNDING_FACTOR = 16
"""The tolerance in the deployment dtype, as a multiple of the gated model's own rounding error."""
_FLOOR_ULPS = 64
"""The least tolerance in the deployment dtype, in units in the last place of the output's scale."""


class Check(BaseModel):
    """The result of one comparison for one task.

    Attributes:
        what: `float64` or the deployment dtype.
        task: The task's name.
        difference: The largest difference over all inputs.
        tolerance: The largest allowed `max_rel`.
        reason: The reason for the tolerance.
    """

    model_config = ConfigDict(frozen=True)

    what: str
    task: str
    difference: Difference
    tolerance: float
    reason: str

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference.max_rel <= self.tolerance


class EquivalenceReport(BaseModel):
    """The result of `verify`.

    Attributes:
        checks: The comparisons.
        inputs: The shapes of the inputs that were compared on.
    """

    model_config = ConfigDict(frozen=True)

    checks: tuple[Check, ...]
    inputs: tuple[tuple[int, ...], ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def per_task(self) -> dict[str, Difference]:
        """The difference in float64, by task."""
        return {c.task: c.difference for c in self.checks if c.what == "float64"}

    def require(self) -> None:
        """Raises a VerificationError that names every failed check, if there is one."""
        failed = [c for c in self.checks if not c.passed]
        if failed:
            differences = ", ".join(
                f"{c.task} in {c.what}: {c.difference.max_rel:.1e} (allowed {c.tolerance:.1e})" for c in failed
            )
            raise VerificationError(
                f"the static network does not compute what the gated one does: relative error of {differences}. "
                "They were made from different weights or gates, or a weight was changed: prune again."
            )


def verify(
    gated: GatedModel, static: StaticModel, *, inputs: Sequence[tuple[Tensor, ...]] | None = None
) -> EquivalenceReport:
    """Compares a static model with the gated model that it was pruned from, task by task.

    In float64 both must agree up to rounding (design invariant 1). Where the static model has a narrower dtype, the
    gated model's weights are first rounded to that dtype. In the static model's own dtype, its deployed form may differ
    from the float64 result by a small multiple of the gated model's own rounding error: folding and slicing reorder
    sums, which changes roundings but not their size.

    Args:
        gated: The gated model; it is evaluated in eval mode and not changed.
        static: The static model; it is not changed.
        inputs: Tuples of inputs to compare on; None takes a batch of two random samples of different scales.

    Returns:
        The report. No error is raised for a failed check.

    Raises:
        VerificationError: The two models do not have the same tasks, or there are no inputs.
    """
    if gated.tasks != static.tasks:
        raise VerificationError(f"the gated model has tasks {gated.tasks}, the static one {static.tasks}.")
    if inputs is None:
        inputs = (tuple(_two_scales(x) for x in static.example_inputs(1)),)
    if not inputs:
        raise VerificationError("verify was given no inputs to compare on; pass at least one tuple.")
    deployed = next((p.dtype for p in static.parameters()), torch.float32)
    # A static network in float16 has rounded weights, which is not an error of pruning.
    narrower = torch.finfo(deployed).eps > torch.finfo(next(gated.parameters()).dtype).eps
    folded = static.deployed()
    exact: dict[str, Difference] = {}
    native: dict[str, Difference] = {}
    rounding: dict[str, float] = dict.fromkeys(gated.tasks, 0.0)  # the gated model's own rounding error
    for batch in inputs:
        truth = run_gated(gated, batch, torch.float64)
        same_weights = run_gated(gated, batch, torch.float64, rounded_to=deployed) if narrower else truth
        _worst(exact, same_weights, run_static(static, batch, torch.float64))
        _worst(native, truth, run_static(folded, batch, deployed))
        rounded = run_gated(gated, batch, deployed)
        for task in gated.tasks:
            error = difference(truth[task], rounded[task]).max_rel
            # Where the gated model itself overflows, its error gives no tolerance and only the floor remains.
            if math.isfinite(error):
                rounding[task] = max(rounding[task], error)
    floor = _FLOOR_ULPS * torch.finfo(deployed).eps
    name = str(deployed).removeprefix("torch.")
    checks = [
        Check(
            what="float64", task=t, difference=d, tolerance=_EXACT,
            reason="the same sums in another order; float64 rounds at 1e-16",
        )
        for t, d in exact.items()
    ]  # fmt: skip
    checks += [
        Check(
            what=name, task=t, difference=d, tolerance=max(_ROUNDING_FACTOR * rounding[t], floor),
            reason=f"{_ROUNDING_FACTOR} times the gated model's own rounding error in {name}, or {_FLOOR_ULPS} units",
        )
        for t, d in native.items()
        if deployed is not torch.float64
    ]  # fmt: skip
    shapes = tuple(tuple(x.shape) for batch in inputs for x in batch)
    return EquivalenceReport(checks=tuple(checks), inputs=shapes)


def _two_scales(x: Tensor) -> Tensor:
    """Returns a sample and its absolute value times ten, which resembles an unnormalised image."""
    return torch.cat([x, x.abs() * 10 if x.is_floating_point() else x])


def _worst(largest: dict[str, Difference], expected: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
    """Updates the largest difference of every task."""
    for task, value in expected.items():
        new = difference(value, outputs[task])
        # Not `>`, because a difference that is not a number must not be overlooked.
        if task not in largest or not new.max_rel <= largest[task].max_rel:
            largest[task] = new
