"""`verify`: gated against static, in float64 and in the dtype that will be deployed."""

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
_ROUNDING_FACTOR = 16
_FLOOR_ULPS = 64


class Check(BaseModel):
    """One task's outcome of one comparison.

    Attributes:
        what: `float64` or the deployment dtype.
        task: name.
        difference: the worst over all inputs.
        tolerance: what `max_rel` had to stay below.
        reason: why that tolerance.
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
    """What `verify` found.

    Attributes:
        checks: every comparison.
        inputs: shapes of the inputs that were compared on.
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
        """Task -> its difference in float64."""
        return {c.task: c.difference for c in self.checks if c.what == "float64"}

    def require(self) -> None:
        """Raise `VerificationError` where a check failed, naming each."""
        failed = [c for c in self.checks if not c.passed]
        if failed:
            found = ", ".join(
                f"{c.task} in {c.what}: {c.difference.max_rel:.1e} (allowed {c.tolerance:.1e})" for c in failed
            )
            raise VerificationError(
                f"the static network does not compute what the gated one does: relative error of {found}. "
                "They were made from different weights or gates, or a weight was changed: prune again."
            )


def verify(
    gated: GatedModel, static: StaticModel, *, inputs: Sequence[tuple[Tensor, ...]] | None = None
) -> EquivalenceReport:
    """Compare a static model with the gated one it came from, task by task.

    In float64 both must agree up to rounding (design invariant 1); where the static model was made in a narrower dtype,
    the gated model's weights are rounded to it first. In the dtype of the static model, its folded form, which is what
    is deployed, may be no further from the float64 truth than a small multiple of what the gated model itself is:
    rounding differs, since folding and slicing reorder sums, but not its size.

    Args:
        gated: not changed; evaluated as in eval mode.
        static: the static model; not changed.
        inputs: input tuples to compare on; a batch of two random samples at different scales when absent.

    Returns:
        The report; nothing is raised when a check fails.

    Raises:
        VerificationError: the two models do not have the same tasks, or there are no inputs.
    """
    if gated.tasks != static.tasks:
        raise VerificationError(f"the gated model has tasks {gated.tasks}, the static one {static.tasks}.")
    if inputs is None:
        inputs = (tuple(_two_scales(x) for x in static.example_inputs(1)),)
    if not inputs:
        raise VerificationError("verify was given no inputs to compare on; pass at least one tuple.")
    deployed = next((p.dtype for p in static.parameters()), torch.float32)
    narrower = torch.finfo(deployed).eps > torch.finfo(next(gated.parameters()).dtype).eps
    folded = static.deployed()
    exact: dict[str, Difference] = {}
    native: dict[str, Difference] = {}
    own: dict[str, float] = dict.fromkeys(gated.tasks, 0.0)
    for batch in inputs:
        truth = run_gated(gated, batch, torch.float64)
        same_weights = run_gated(gated, batch, torch.float64, rounded_to=deployed) if narrower else truth
        _worst(exact, same_weights, run_static(static, batch, torch.float64))
        _worst(native, truth, run_static(folded, batch, deployed))
        rounded = run_gated(gated, batch, deployed)
        # Where the gated model itself overflows there is nothing to measure by, and only the floor is left.
        errors = {t: difference(truth[t], rounded[t]).max_rel for t in gated.tasks}
        own = {t: max(own[t], error) if math.isfinite(error) else own[t] for t, error in errors.items()}
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
            what=name, task=t, difference=d, tolerance=max(_ROUNDING_FACTOR * own[t], floor),
            reason=f"{_ROUNDING_FACTOR} times the gated model's own rounding error in {name}, or {_FLOOR_ULPS} units",
        )
        for t, d in native.items()
        if deployed is not torch.float64
    ]  # fmt: skip
    return EquivalenceReport(checks=tuple(checks), inputs=tuple(tuple(x.shape) for batch in inputs for x in batch))


def _two_scales(x: Tensor) -> Tensor:
    """A sample, and one at another operating point: positive and ten times larger, as unnormalised images are."""
    return torch.cat([x, x.abs() * 10 if x.is_floating_point() else x])


def _worst(found: dict[str, Difference], expected: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
    for task, value in expected.items():
        new = difference(value, outputs[task])
        if task not in found or not new.max_rel <= found[task].max_rel:
            found[task] = new
