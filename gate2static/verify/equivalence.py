"""The comparison of a gated and a static network, in float64 and in the dtype that will be deployed."""

import math
from collections.abc import Mapping, Sequence

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from gate2static.arguments import require_kind
from gate2static.errors import ArtefactError, GateError, VerificationError
from gate2static.gates.model import GatedModel, gated_model
from gate2static.gates.plain_layers import with_plain_layers
from gate2static.graphs import quiet
from gate2static.messages import brief
from gate2static.prune.present import for_tasks
from gate2static.static.draws import DrawnBatch, comparison_batches
from gate2static.static.model import StaticModel
from gate2static.verify.difference import Difference, difference
from gate2static.verify.pruned_again import changed_parts
from gate2static.verify.running import run_gated, run_static

_EXACT = 1e-9
"""The tolerance in float64, relative to the output's scale."""
_ROUNDING_FACTOR = 16
"""The tolerance in the deployment dtype, as a multiple of the gated model's own rounding error."""
_FAILURES = (
    ArtefactError, RuntimeError, IndexError, ValueError, TypeError, AttributeError, KeyError, AssertionError,
)  # fmt: skip
"""What a network raises that does not run."""
_NAMED = 5
"""How many changed parts an error names."""
_FLOOR_ULPS = 64
"""The least tolerance in the deployment dtype, in units in the last place of the output's scale."""


class Check(BaseModel):
    """The result of one comparison for one task.

    Attributes:
        what: `float64` or the deployment dtype.
        task: The task's name.
        difference: The difference on the batch of inputs where it is the largest, measured by what is allowed there.
        tolerance: The largest allowed `max_rel` on that batch.
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
        checks: The comparisons of outputs.
        inputs: The shapes of the inputs that were compared on.
        changed: The tensors and operators of the static network that are not those of pruning the gated network again,
            by name. None where that cannot be said (`pruned_again`), so that outputs alone were compared.
    """

    model_config = ConfigDict(frozen=True)

    checks: tuple[Check, ...]
    inputs: tuple[tuple[int, ...], ...]
    changed: tuple[str, ...] | None = None

    @property
    def passed(self) -> bool:
        """Whether every check passed, and nothing was changed since pruning."""
        return bool(self.checks) and all(check.passed for check in self.checks) and not self.changed

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
            not_finite = "" if all(math.isfinite(c.difference.max_rel) for c in failed) else (
                " An error of inf is that of outputs that are not finite, or of another shape."
            )
            raise VerificationError(
                f"the static network does not compute what the gated one does: relative error of {differences}. "
                f"They were made from different weights or gates, or a weight was changed: prune again.{not_finite}"
            )
        if self.changed:
            names = ", ".join(self.changed[:_NAMED]) + (", …" if len(self.changed) > _NAMED else "")
            raise VerificationError(
                f"the static network computes what the gated one does on the inputs that were tried, but {names} "
                "differ from what pruning gives: they were made from different weights or gates, or were changed. "
                "Prune again."
            )


@quiet()
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
        inputs: Tuples of inputs to compare on; None draws batches from the ranges of the example inputs, at the ends
            of the ranges too, and of several sizes where sizes are free.

    Returns:
        The report. No error is raised for a failed check.

    Raises:
        VerificationError: The two models do not have the same tasks or inputs, or there are no inputs to compare on, or
            inputs that the networks do not take.
        ArtefactError: The static model was fine-tuned since it was pruned, so that it computes something else.
    """
    # The truth has the weights that parametrizations compute in the gated model's own dtype, as pruning took them.
    given = gated_model(gated, error=VerificationError)
    gated = with_plain_layers(given)
    _check_models(gated, static)
    refuse_fine_tuned(static)
    gated = for_tasks(gated, static.tasks)
    if inputs is not None:
        _check_inputs(static, inputs)
    deployed = next((p.dtype for p in static.parameters()), torch.float32)
    # A static network in float16 has rounded weights, which is not an error of pruning.
    narrower = torch.finfo(deployed).eps > torch.finfo(next(gated.parameters()).dtype).eps
    folded = _deployed(static)
    floor = _FLOOR_ULPS * torch.finfo(deployed).eps
    exact: dict[str, _Compared] = {}
    native: dict[str, _Compared] = {}
    shapes: list[tuple[int, ...]] = []
    batches = comparison_batches(static.manifest.inputs) if inputs is None else [DrawnBatch(batch) for batch in inputs]
    for batch in batches:
        truth = _truth(gated, batch)
        if truth is None:
            continue
        shapes += [tuple(x.shape) for x in batch.inputs]
        same_weights = run_gated(gated, batch.inputs, torch.float64, rounded_to=deployed) if narrower else truth
        _worst(exact, same_weights, _outputs(static, batch, torch.float64), dict.fromkeys(truth, _EXACT))
        # The gated model's own rounding error on these inputs; where it overflows itself, only the floor remains.
        own = {
            task: difference(truth[task], value).max_rel
            for task, value in run_gated(gated, batch.inputs, deployed).items()
        }
        allowed = {
            task: max(_ROUNDING_FACTOR * error, floor) if math.isfinite(error) else floor for task, error in own.items()
        }
        _worst(native, truth, {} if folded is None else _outputs(folded, batch, deployed), allowed)
    if inputs is None:
        _check_sizes(static, shapes)
    name = str(deployed).removeprefix("torch.")
    checks = [
        Check(
            what="float64", task=t, difference=d, tolerance=tolerance,
            reason="the same sums in another order; float64 rounds at 1e-16",
        )
        for t, (d, tolerance) in exact.items()
    ]  # fmt: skip
    checks += [
        Check(
            what=name, task=t, difference=d, tolerance=tolerance,
            reason=f"{_ROUNDING_FACTOR} times the gated model's own rounding error in {name}, or {_FLOOR_ULPS} units",
        )
        for t, (d, tolerance) in native.items()
        if deployed is not torch.float64
    ]  # fmt: skip
    return EquivalenceReport(checks=tuple(checks), inputs=tuple(shapes), changed=changed_parts(given, static))


def refuse_fine_tuned(static: StaticModel) -> None:
    """Refuses a network that was trained since it was pruned.

    Raises:
        ArtefactError: It is one; the message says what can be compared instead.
    """
    source = static.manifest.fine_tuned_from
    if source is not None:
        raise ArtefactError(
            f"the static network was fine-tuned since pruning made it (digest {source[:12]}), so it is not meant to "
            "compute what the gated network computes. What can be compared with it is its own ONNX file: "
            "gate2static verify CHECKPOINT STATIC_DIR --onnx FILE."
        )


_Compared = tuple[Difference, float]
"""A difference, and the largest one that is allowed on the same inputs."""


def _check_models(gated: GatedModel, static: StaticModel) -> None:
    """Refuses models that cannot have been made from each other.

    Raises:
        VerificationError: An argument is no such model, or tasks or inputs differ.
    """
    for model, kind in ((gated, GatedModel), (static, StaticModel)):
        if not isinstance(model, kind):
            raise VerificationError(
                f"verify compares a GatedModel with a StaticModel, in this order, and was given a "
                f"{type(model).__name__} where the {kind.__name__} belongs."
            )
    if tuple(task for task in gated.tasks if task in static.tasks) != static.tasks:
        raise VerificationError(f"the gated model has tasks {gated.tasks}, the static one {static.tasks}.")
    of_gated = gated.program.input_names
    of_static = [spec.name for spec in static.manifest.inputs]
    if of_gated != of_static:
        raise VerificationError(f"the gated model has inputs {of_gated}, the static one {of_static}.")


def _check_inputs(static: StaticModel, inputs: Sequence[tuple[Tensor, ...]]) -> None:
    """Refuses inputs on which nothing can be compared.

    Raises:
        VerificationError: There are none, the static network does not take them, or a batch is empty.
    """
    allowed = "a list of tuples, each with the inputs of one run"
    require_kind(inputs, (list, tuple), name="inputs", allowed=allowed, error=VerificationError)
    if not inputs:
        raise VerificationError("verify was given no inputs to compare on; pass at least one tuple.")
    for number, batch in enumerate(inputs):
        if not isinstance(batch, tuple | list):
            raise VerificationError(
                f"inputs hold a {type(batch).__name__}; allowed is a list of tuples, each with the inputs of one run."
            )
        try:
            static.check_inputs(tuple(batch))
        except ArtefactError as error:
            raise VerificationError(f"batch {number} of the inputs cannot be compared on: {error}") from error
        if not all(x.numel() for x in batch):
            raise VerificationError(
                f"batch {number} of the inputs is empty: it has shapes {[tuple(x.shape) for x in batch]}. On no sample "
                "all networks are equal; pass at least one."
            )


def _check_sizes(static: StaticModel, shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuses to call networks equal for any size that were compared at one size only.

    Raises:
        VerificationError: The gated network ran at no other size.
    """
    specs = static.manifest.inputs
    free = [number for number, spec in enumerate(specs) if spec.dynamic]
    # The shapes of all inputs of one batch come before those of the next.
    compared = [shape[1:] for shape in shapes[free[0] :: len(specs)]] if free else []
    if free and all(shape == specs[free[0]].shape for shape in compared):
        raise VerificationError(
            f"the static network takes any size, but the gated one ran at that of its example inputs only, "
            f"{specs[free[0]].shape}: pass inputs of other sizes, or prune without dynamic."
        )


def _truth(gated: GatedModel, batch: DrawnBatch) -> Mapping[str, Tensor] | None:
    """Computes the gated model's outputs in float64; None where a drawn batch is no input of it."""
    try:
        if gated.program.decisions is not None:
            gated.program.decisions.check(batch.inputs)
        truth = run_gated(gated, batch.inputs, torch.float64)
    except (*_FAILURES, GateError) as error:
        if not batch.is_certain:
            return None
        shapes = [tuple(x.shape) for x in batch.inputs]
        raise VerificationError(
            f"the gated network does not run on the inputs that are compared, of shapes {shapes}: "
            f"{brief(error, 300)}. Pass inputs that it takes to verify, or gate with example inputs "
            "whose values are all allowed."
        ) from error
    if batch.is_certain:
        return truth
    return truth if all(bool(value.isfinite().all()) for value in truth.values()) else None


def _deployed(static: StaticModel) -> StaticModel | None:
    """Makes the deployed form; None where the graph is so wrong that there is none."""
    try:
        return static.deployed()
    except _FAILURES:
        return None


def _outputs(static: StaticModel, batch: DrawnBatch, dtype: torch.dtype) -> Mapping[str, Tensor]:
    """Computes a static model's outputs; none where it does not run, as with a wrong index in its graph."""
    try:
        return run_static(static, batch.inputs, dtype)
    except _FAILURES:
        return {}


def _worst(
    largest: dict[str, _Compared],
    expected: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    allowed: Mapping[str, float],
) -> None:
    """Updates the difference of every task that is the largest, measured by what is allowed with it."""
    for task, value in expected.items():
        output = outputs.get(task)
        # What has no output differs by more than any number.
        new = difference(value, value.new_empty(0) if output is None else output)
        excess = new.max_rel / allowed[task]
        # Not `>`, because a difference that is not a number must not be overlooked.
        if task not in largest or not excess <= largest[task][0].max_rel / largest[task][1]:
            largest[task] = new, allowed[task]
