"""The training of one network of a run: its settings, its files, and what its checkpoint depends on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from gate2static.architectures.smtl import SMTL
from gate2static.recipe import (
    ArchitectureRecipe,
    BalancingRecipe,
    Budget,
    GatedNetworkRecipe,
    NetworkRecipe,
    Recipe,
    SharedNetworkRecipe,
)
from gate2static.tasks import Task
from gate2static.train.loop import checkpoints

Kind = Literal["single", "shared", "gated", "architecture"]

_NUMERIC_SETTINGS = ("precision", "accumulate", "clip_norm")
"""Settings of `training` that change results by more than rounding."""


@dataclass(frozen=True, kw_only=True)
class NetworkRun:
    """The training of one network: single-task, shared, gated, or of another architecture.

    Attributes:
        name: The network's folder inside the run, such as `separate/left` or `gated-0.05`.
        kind: The part of the recipe's `training` that holds the settings; architectures have those of `shared`.
        model: Maps images (N, C, H, W) to a dict of outputs by task.
        tasks: The tasks whose losses are summed (eq. 1).
        recipe: The recipe of the whole run.
        run_dir: The folder of the whole run.
        sparsity_weight: λ_s of eq. 5, or its first value where a budget steers it; 0 for a network without gates.
        teachers: The single-task networks by task, for distillation; empty without.
        architecture: What an architecture was built from; None for other networks.
    """

    name: str
    kind: Kind
    model: nn.Module
    tasks: tuple[Task, ...]
    recipe: Recipe
    run_dir: Path
    sparsity_weight: float = 0.0
    teachers: Mapping[str, nn.Module] = field(default_factory=dict)
    architecture: ArchitectureRecipe | None = None

    @property
    def settings(self) -> NetworkRecipe | GatedNetworkRecipe:
        """The recipe's settings for this kind of network."""
        training = self.recipe.training
        settings = {"single": training.single, "gated": training.gated}
        return settings.get(self.kind, training.shared)

    @property
    def balancing(self) -> BalancingRecipe | None:
        """How the tasks are balanced; None for plain training."""
        settings = self.settings
        if self.kind == "architecture" or not isinstance(settings, SharedNetworkRecipe) or settings.balancing.is_plain:
            return None
        return settings.balancing

    @property
    def held_out(self) -> float:
        """The share of the training images that α of Safe MTL is trained on; 0 for other networks."""
        return self.model.held_out if isinstance(self.model, SMTL) else 0.0

    @property
    def cost(self) -> int:
        """Backbone passes per step: one, or one per stream."""
        return len(self.tasks) + 1 if self.kind in ("gated", "architecture") else 1

    @property
    def budget(self) -> Budget | None:
        """The most that the static network may cost; None without a limit."""
        return self.recipe.budget if self.kind == "gated" else None

    @property
    def checkpoint(self) -> Path:
        """The path of the last checkpoint."""
        return self.run_dir / self.name / checkpoints.FILE

    @property
    def best_checkpoint(self) -> Path:
        """The path of the best epoch's checkpoint."""
        return self.run_dir / self.name / checkpoints.BEST_FILE

    @property
    def hinge_targets(self) -> dict[str, float]:
        """τ_t of eq. 4 by task; 0 where sparsity is plain L1 (table 6)."""
        is_l1 = self.recipe.training.gated.sparsity == "l1"
        return {task.name: 0.0 if is_l1 else task.target for task in self.tasks}

    @property
    def gates_know_sparsity(self) -> bool:
        """Whether λ_s is the gates' optimiser's, and no part of the loss."""
        return self.recipe.training.gated.gates.kind == "scaled"

    @property
    def freezes(self) -> bool:
        """Whether all gates are frozen at some point."""
        return self.kind == "gated" and self.recipe.training.gated.freeze_at is not None

    @property
    def search(self) -> float:
        """The share of the training in which gates are decided; they are frozen behind it."""
        freeze_at = self.recipe.training.gated.freeze_at
        return 1.0 if freeze_at is None else freeze_at

    @property
    def identity(self) -> dict[str, Any]:
        """Every part of the recipe that the network depends on; a checkpoint with another identity is not resumed."""
        parts = identity(self.recipe, self.name, self.kind)
        if self.kind == "gated":  # rounds of a safe network train without
            parts["sparsity_weight"] = self.sparsity_weight
        if self.architecture is not None:
            parts["architecture"] = self.architecture.model_dump(mode="json")
        return parts


def identity(recipe: Recipe, name: str, kind: Kind) -> dict[str, Any]:
    """Returns every part of a recipe that a network of it depends on.

    Args:
        recipe: The recipe of the whole run.
        name: The network's folder inside the run.
        kind: The part of the recipe's `training` that holds the network's settings.
    """
    plain = recipe.model_dump(mode="json")
    training = plain["training"]
    targets, tasks = split_targets(plain["tasks"])
    if kind == "single":
        # ω_t weighs tasks against each other, so a single-task network does not depend on it.
        tasks = [{**task, "weight": 1.0} for task in tasks]
    # A gated network starts from the baselines and so depends on their settings too.
    own = "shared" if kind == "architecture" else kind
    kinds: tuple[str, ...] = ("single", "shared", "gated") if kind == "gated" else (own,)
    if own == "shared" and recipe.training.distillation > 0:  # single-task networks teach it
        kinds = ("single", "shared")
    parts = {"stage": name, **{key: plain[key] for key in ("seed", "data", "model")}}
    parts["tasks"] = tasks
    parts |= {f"training.{other}": training[other] for other in kinds}
    parts |= {f"training.{key}": training[key] for key in _NUMERIC_SETTINGS}
    if kind != "single":
        parts["training.distillation"] = training["distillation"]
    if kind == "gated":
        parts["gating"] = plain["gating"]
        parts["sparsity_weight"] = plain["sparsity_weight"]
        parts["budget"] = plain["budget"]
        parts["targets"] = targets
        parts["training.keep"] = training["keep"]
    return parts


def split_targets(tasks: list[dict[str, Any]]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Separates the targets τ, which only gates depend on, from the other values of each task.

    Args:
        tasks: The tasks of a recipe, as plain values.

    Returns:
        The targets by task, and the tasks without them.
    """
    targets = {task["name"]: task["target"] for task in tasks if "target" in task}
    others = []
    for task in tasks:
        others.append({key: value for key, value in task.items() if key != "target"})
    return targets, others
