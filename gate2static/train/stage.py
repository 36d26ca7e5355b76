"""One network to train, where its checkpoint lies, and how far its training has come."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from gate2static.errors import CheckpointError, TrainingError
from gate2static.recipe import Budget, GatedStageRecipe, GatingRecipe, Recipe, StageRecipe
from gate2static.tasks import Task
from gate2static.train import checkpoints, random_state
from gate2static.train.log import LogRow

Kind = Literal["single", "shared", "gated"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One network of a run: single-task, shared or gated.

    Attributes:
        name: its folder in the run, such as `separate/left` or `gated-0.05`.
        kind: which part of the recipe's `training` it is trained by.
        model: maps images to a dict task -> output.
        tasks: the tasks that its loss sums over (eq. 1).
        sparsity_weight: λ_s of eq. 5, or where it starts if there is a budget; 0 where there are no gates.
    """

    name: str
    kind: Kind
    model: nn.Module
    tasks: tuple[Task, ...]
    recipe: Recipe
    run_dir: Path
    sparsity_weight: float = 0.0

    @property
    def settings(self) -> StageRecipe | GatedStageRecipe:
        """How to train it."""
        training = self.recipe.training
        return {"single": training.single, "shared": training.shared, "gated": training.gated}[self.kind]

    @property
    def cost(self) -> int:
        """Backbone passes a step: one, or one a stream."""
        return len(self.tasks) + 1 if self.kind == "gated" else 1

    @property
    def budget(self) -> Budget | None:
        """What the static network may cost, if that is limited."""
        return self.recipe.budget if self.kind == "gated" else None

    @property
    def checkpoint(self) -> Path:
        """Where its checkpoint lies."""
        return self.run_dir / self.name / checkpoints.FILE

    @property
    def identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to be one of this stage: every part of the recipe that it depends on."""
        recipe = self.recipe.model_dump(mode="json")
        kinds = ("single", "shared", "gated") if self.kind == "gated" else (self.kind,)
        parts = {key: recipe[key] for key in ("seed", "data", "tasks", "model")}
        parts |= {f"training.{kind}": recipe["training"][kind] for kind in kinds}
        if self.kind == "gated":
            parts |= {"gating": recipe["gating"], "sparsity_weight": self.sparsity_weight, "budget": recipe["budget"]}
        return {"stage": self.name, **parts}


@dataclass(kw_only=True)
class Position:
    """How far a stage has come: complete epochs, steps of the next one, and what was noted on the way."""

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    """Losses summed over the images of the epoch that is under way, and their number as `images`."""
    log: list[LogRow] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    """`epoch` and `score` of the best epoch so far, by the mean of the validation metrics. The last epoch is the
    result nevertheless: while gates close, the best epoch of a gated network is simply its least sparse one."""
    budget: dict[str, Any] = field(default_factory=dict)
    """With a budget: the state of its `controller` and, at the end, the `report` of the projection."""


def save(stage: Stage, position: Position, optimisers: dict[str, Optimizer]) -> None:
    """Writes everything that going on bit for bit needs.

    Raises:
        TrainingError: A weight is not finite, so the last checkpoint is better than this one; or the disk is full.
    """
    state = stage.model.state_dict()
    for key, value in state.items():
        if not bool(value.isfinite().all()):
            raise TrainingError(
                f"{stage.name}: {key} is no longer finite after epoch {position.epoch}; {advice(stage)}"
            )
    checkpoints.save_checkpoint(
        stage.checkpoint,
        {
            "kind": stage.kind,
            "identity": stage.identity,
            "recipe": stage.recipe.model_dump(mode="json"),
            "model": state,
            "optimisers": {name: optimiser.state_dict() for name, optimiser in optimisers.items()},
            "random": random_state.capture(),
            "position": asdict(position),
        },
    )


def resume(stage: Stage, optimisers: dict[str, Optimizer]) -> Position:
    """Puts model, optimisers and random generators back to where the stage's checkpoint has them.

    Raises:
        CheckpointError: The checkpoint cannot be read or belongs to another recipe; names what differs.
    """
    content = checkpoints.load_checkpoint(stage.checkpoint)
    found, wanted = content["identity"], stage.identity
    if "gating" in found:  # the defaults of settings that came later are what the checkpoint was trained with
        found = {**found, "gating": GatingRecipe().model_dump(mode="json") | found["gating"]}
    for key in wanted:
        if found.get(key) != wanted[key]:
            raise CheckpointError(
                f"{stage.checkpoint}: was trained with another {key}: {_difference(found.get(key), wanted[key])}; "
                "resume with the recipe it was started with, or start in another folder"
            )
    checkpoints.load_weights(stage.model, content["model"], where=str(stage.checkpoint))
    for name, optimiser in optimisers.items():
        optimiser.load_state_dict(content["optimisers"][name])
    random_state.restore(content["random"])
    return Position(**content["position"])


def advice(stage: Stage) -> str:
    """What is kept and what to do when training cannot go on."""
    kept = (
        f"the last checkpoint is kept at {stage.checkpoint}" if stage.checkpoint.exists() else "no epoch was complete"
    )
    return f"{kept}; lower training.{stage.kind}.weights.lr, or check the data and the targets"


def _difference(found: Any, wanted: Any) -> str:
    """The first leaf at which two plain values differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in (*wanted, *found):
            if found.get(key) != wanted.get(key):
                return f"{key}: {_difference(found.get(key), wanted.get(key))}"
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        index = next(i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b)
        return f"item {index}: {_difference(found[index], wanted[index])}"
    return f"{found} there, {wanted} here"
