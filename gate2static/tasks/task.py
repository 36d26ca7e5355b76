"""A recipe's tasks, checked against the data set."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gate2static import plugins
from gate2static.arguments import described
from gate2static.data import DataSpec
from gate2static.data.contract import IGNORE
from gate2static.errors import DataError, RecipeError
from gate2static.recipe import TaskRecipe
from gate2static.recipe.parsing import suggest
from gate2static.tasks.kind import Kind
from gate2static.tasks.kinds import KINDS

_TEMPERATURE = 2.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of a run.

    Attributes:
        name: The task's name, and the name of its target in the data set.
        kind: The loss and the metrics.
        channels: The number of outputs of the task's head.
        weight: ω_t of eq. 1.
        target: The hinge target τ_t of eq. 4.
    """

    name: str
    kind: Kind
    channels: int
    weight: float = 1.0
    target: float = 0.0

    def loss(self, output: Tensor, target: Tensor, mean: float | None = None) -> Tensor:
        """Returns L_t of eq. 1 before its weight ω_t: a scalar, the mean over all valid values of the batch.

        A batch without valid values gives 0 with a gradient of 0. Half-precision outputs are compared in float32.

        Args:
            output: The head's raw output.
            target: The data set's target.
            mean: The mean of the whole batch's valid targets, for a kind that `weighs_by_mean` where `target` is a part
                of the batch.

        Raises:
            DataError: The target's shape or a class number does not fit the task.
        """
        self.check_shapes(output, target)
        try:
            batch_mean = (mean,) if self.kind.weighs_by_mean else ()
            return self.kind.loss(output.to(torch.promote_types(output.dtype, torch.float32)), target, *batch_mean)
        except IndexError:
            # A check before each step would make a GPU wait. On a GPU, classes that do not exist end the process.
            self.check_classes(target)
            raise

    def distance(self, output: Tensor, teacher: Tensor) -> Tensor:
        """Returns the distance from another network's output (Hinton et al., 2015), a scalar, the mean over the batch.

        For classes it is the KL divergence of the distributions at temperature 2, times 4, so that its gradient is of
        the loss's size; for all others the task's loss with the other network's prediction as the target.

        Args:
            output: The head's raw output.
            teacher: The other network's raw output, of the same shape.
        """
        output, teacher = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (output, teacher))
        if not self.kind.labelled:
            return self.kind.loss(output, self.kind.soften(teacher))
        student = (output / _TEMPERATURE).log_softmax(1)
        teacher = (teacher / _TEMPERATURE).log_softmax(1)
        return _TEMPERATURE**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(1).mean()

    def check_shapes(self, output: Tensor, target: Tensor) -> None:
        """Raises a DataError unless a batch's target has the shape that fits an output (N, C, ...)."""
        expected = output.shape[:1] + output.shape[2:] if self.kind.labelled else output.shape
        if target.shape != expected:
            raise DataError(
                f"{self.name}: targets are {tuple(target.shape)}, but the network's output {tuple(output.shape)} needs "
                f"{tuple(expected)}; the data set must give images and targets of one size"
            )

    def check_classes(self, classes: Tensor) -> None:
        """Raises a DataError if a class number is outside the task's range."""
        wrong = (classes < 0) | (classes >= self.channels)
        if self.kind.dense:
            wrong &= classes != IGNORE
        if wrong.any():
            ignored = f" and {IGNORE} for pixels to ignore" if self.kind.dense else ""
            raise DataError(
                f"{self.name}: targets hold class {int(classes[wrong][0])}; allowed are 0 to {self.channels - 1}"
                f"{ignored}; correct the data set's labels or its number of classes"
            )


def build_tasks(recipes: tuple[TaskRecipe, ...], spec: DataSpec) -> tuple[Task, ...]:
    """Builds every task of a recipe with its loss, metrics and number of outputs.

    Args:
        recipes: The recipe's tasks.
        spec: The description of the data set.

    Raises:
        RecipeError: The data set has no target for a task, or the task's kind is unknown or does not fit the target.
    """
    return tuple(_build(recipe, spec) for recipe in recipes)


def find_kind(recipe: TaskRecipe) -> Kind:
    """Returns the kind of a recipe's task.

    Raises:
        RecipeError: There is no such kind, or its module may not be imported.
    """
    if recipe.kind in KINDS:
        return KINDS[recipe.kind]
    kind = plugins.find(recipe.kind, "tasks", where=f"tasks: {recipe.name}", error=RecipeError)
    if kind is None:
        allowed = suggest(recipe.kind, [*KINDS, *plugins.installed("tasks")])
        raise RecipeError(
            f"tasks: {recipe.name} is of kind {recipe.kind}; {allowed}, or your own, as package.module:KIND"
        )
    if not isinstance(kind, Kind):
        raise RecipeError(f"tasks: {recipe.kind} is {described(kind)}; allowed is a gate2static.tasks.Kind")
    return kind


def _build(recipe: TaskRecipe, spec: DataSpec) -> Task:
    if recipe.name not in spec.targets:
        raise RecipeError(f"tasks: the data set has no target {recipe.name}; {suggest(recipe.name, spec.targets)}")
    kind = find_kind(recipe)
    target = spec.targets[recipe.name]
    if target.kind not in (recipe.kind, kind.variant_of):
        kinds = [name for name, known in KINDS.items() if target.kind in (name, known.variant_of)] or [target.kind]
        raise RecipeError(
            f"tasks: {recipe.name} is of kind {recipe.kind}, but the data set's target is {target.kind}; "
            f"write {' or '.join(f'kind: {name}' for name in kinds)}"
        )
    return Task(
        name=recipe.name,
        kind=kind,
        channels=target.channels,
        weight=recipe.weight,
        target=recipe.target,
    )
