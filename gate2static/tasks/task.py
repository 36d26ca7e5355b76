"""A recipe's tasks, checked against what the data set holds."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gate2static.data import DataSpec
from gate2static.errors import RecipeError
from gate2static.recipe import TaskRecipe
from gate2static.recipe.parsing import suggest
from gate2static.tasks.kind import Kind
from gate2static.tasks.kinds import KINDS
from gate2static.tasks.metrics import TaskMetrics


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of a run: `weight` is ω_t (eq. 1), `target` τ_t (eq. 4), `channels` the outputs of its head."""

    name: str
    kind: Kind
    channels: int
    weight: float = 1.0
    target: float = 0.0

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """L_t of eq. 1, before its weight ω_t: a scalar, the mean over the batch."""
        return self.kind.loss(output, target)

    def new_metrics(self, device: torch.device | str = "cpu") -> TaskMetrics:
        """Empty metrics; they take a head's raw output."""
        return TaskMetrics(self, device)


def build_tasks(recipes: tuple[TaskRecipe, ...], spec: DataSpec) -> tuple[Task, ...]:
    """Gives every task of a recipe its loss, metric and number of outputs.

    Raises:
        RecipeError: A task that the data set has no target for, or whose kind is unknown or not the target's.
    """
    return tuple(_build(recipe, spec) for recipe in recipes)


def _build(recipe: TaskRecipe, spec: DataSpec) -> Task:
    if recipe.name not in spec.targets:
        raise RecipeError(f"tasks: the data set has no target {recipe.name}; {suggest(recipe.name, spec.targets)}")
    if recipe.kind not in KINDS:
        raise RecipeError(f"tasks: {recipe.name} is of kind {recipe.kind}; {suggest(recipe.kind, KINDS)}")
    target = spec.targets[recipe.name]
    if recipe.kind != target.kind:
        raise RecipeError(f"tasks: {recipe.name} is of kind {recipe.kind}, but the data set's target is {target.kind}")
    return Task(
        name=recipe.name,
        kind=KINDS[recipe.kind],
        channels=target.channels,
        weight=recipe.weight,
        target=recipe.target,
    )
