"""One network to train, where its checkpoint lies, and how far its training has come."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from gate2static.errors import CheckpointError, TrainingError
from gate2static.recipe import (
    Budget,
    DecoderRecipe,
    GatedStageRecipe,
    GatingRecipe,
    Recipe,
    StageRecipe,
    TrainingRecipe,
)
from gate2static.tasks import Task
from gate2static.train.loop import checkpoints, random_state
from gate2static.train.loop.log import LogRow
from gate2static.train.processes.devices import on_first_process

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Kind = Literal["single", "shared", "gated"]

_COMPUTED_WITH = ("precision", "accumulate", "clip_norm")
"""Settings of `training` that change more than rounding."""
_DEFAULTS: dict[str, Any] = {
    "gating": GatingRecipe().model_dump(mode="json"),
    "model": {"decoder": DecoderRecipe().model_dump(mode="json")},
    **{f"training.{key}": value for key, value in TrainingRecipe().model_dump(mode="json").items()},
}
"""Settings that came later have these values in checkpoints from before."""


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
    def best_checkpoint(self) -> Path:
        """Where the checkpoint of its best epoch lies."""
        return self.run_dir / self.name / checkpoints.BEST_FILE

    @property
    def hinge_targets(self) -> dict[str, float]:
        """τ_t of eq. 4 by task; 0 where sparsity is plain L1 (table 6)."""
        l1 = self.recipe.training.gated.sparsity == "l1"
        return {task.name: 0.0 if l1 else task.target for task in self.tasks}

    @property
    def identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to be one of this stage: every part of the recipe that it depends on."""
        recipe = self.recipe.model_dump(mode="json")
        kinds = ("single", "shared", "gated") if self.kind == "gated" else (self.kind,)
        parts = {key: recipe[key] for key in ("seed", "data", "model")}
        targets, parts["tasks"] = _without_targets(recipe["tasks"])
        if self.kind == "single":  # ω_t says how tasks share a network
            parts["tasks"] = [{**task, "weight": 1.0} for task in parts["tasks"]]
        parts |= {f"training.{kind}": recipe["training"][kind] for kind in kinds}
        parts |= {f"training.{key}": recipe["training"][key] for key in _COMPUTED_WITH}
        if self.kind == "gated":
            parts |= {"gating": recipe["gating"], "sparsity_weight": self.sparsity_weight, "budget": recipe["budget"]}
            parts |= {"targets": targets, "training.keep": recipe["training"]["keep"]}
        return {"stage": self.name, **parts}


@dataclass(kw_only=True)
class Position:
    """How far a stage has come: complete epochs, steps of the next one, and what was noted on the way."""

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    """Losses summed over the images of the epoch that is under way."""
    log: list[LogRow] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    """The best `epoch` so far, by the mean relative difference of the validation metrics."""
    budget: dict[str, Any] = field(default_factory=dict)
    """With a budget: the state of its `controller` and, at the end, the `report` of the projection."""

    @property
    def epochs_since_best(self) -> int:
        """Complete epochs since the best one."""
        return self.epoch - int(self.best.get("epoch", 0))


def check_weights(stage: Stage, position: Position) -> None:
    """Raises a TrainingError if a weight is not finite: the last checkpoint is better than what training has now."""
    for key, value in stage.model.state_dict().items():
        if not bool(value.isfinite().all()):
            raise TrainingError(
                f"{stage.name}: {key} is no longer finite in epoch {position.epoch + 1}; {advice(stage)}"
            )


def save(stage: Stage, position: Position, *, fabric: "Fabric", best: bool = False, **parts: Any) -> None:
    """Writes everything that going on bit for bit needs, on the first process.

    Args:
        stage: Whose checkpoint to write.
        position: How far it is.
        fabric: Of the run.
        best: Whether this is also the best epoch so far, which has a checkpoint of its own.
        parts: What has a `state_dict` besides the model, or a dict of such things.

    Raises:
        TrainingError: The disk is full.
    """
    content = {
        "kind": stage.kind,
        "identity": stage.identity,
        "recipe": stage.recipe.model_dump(mode="json"),
        "model": stage.model.state_dict(),
        **{name: _states(part) for name, part in parts.items()},
        **random_state.gather(),
        "position": asdict(position),
    }
    # The last checkpoint comes last: going on from it finds the best one as it left it, or writes it again.
    files = [*([stage.best_checkpoint] if best else []), stage.checkpoint]

    def write() -> None:
        for file in files:
            checkpoints.save_checkpoint(file, content)

    on_first_process(fabric, write)


def resume(stage: Stage, **parts: Any) -> Position:
    """Puts model, random generators and `parts` (as of `save`) back to where the stage's checkpoint has them.

    Raises:
        CheckpointError: The checkpoint cannot be read or belongs to another recipe; names what differs.
    """
    content = checkpoints.load_checkpoint(stage.checkpoint)
    found, wanted = _filled_up(content["identity"]), stage.identity
    for key in wanted:
        if found.get(key) != wanted[key]:
            raise CheckpointError(
                f"{stage.checkpoint}: was trained with another {key}: {_difference(found.get(key), wanted[key])}; "
                "resume with the recipe it was started with, or start in another folder"
            )
    checkpoints.load_weights(stage.model, content["model"], where=str(stage.checkpoint))
    for name, part in parts.items():
        _load_states(part, content.get(name, {}))
    random_state.scatter(content)
    position = Position(**content["position"])
    position.sums.pop("images", None)  # older checkpoints counted them
    return position


def advice(stage: Stage) -> str:
    """What is kept and what to do when training cannot go on."""
    kept = (
        f"the last checkpoint is kept at {stage.checkpoint}" if stage.checkpoint.exists() else "no epoch was complete"
    )
    return f"{kept}; lower training.{stage.kind}.weights.lr, or check the data and the targets"


def _states(part: Any) -> Any:
    return {name: p.state_dict() for name, p in part.items()} if isinstance(part, dict) else part.state_dict()


def _load_states(part: Any, state: Any) -> None:
    if isinstance(part, dict):
        for name, p in part.items():
            p.load_state_dict(state[name])
    elif state:
        part.load_state_dict(state)


def _without_targets(tasks: list[dict[str, Any]]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Targets τ by task, which only gates depend on, and the rest of each task."""
    rest = [{key: value for key, value in task.items() if key != "target"} for task in tasks]
    return {task["name"]: task["target"] for task in tasks if "target" in task}, rest


def _filled_up(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity from before some settings existed or stood apart, with their defaults."""

    def fill(found: Any, default: Any) -> Any:
        if isinstance(found, dict) and isinstance(default, dict):
            return {**default, **{key: fill(value, default.get(key)) for key, value in found.items()}}
        return found

    targets, tasks = _without_targets(identity["tasks"])
    identity = {"targets": targets, **identity, "tasks": tasks}
    computed = {key: value for key, value in _DEFAULTS.items() if not isinstance(value, dict)}
    return {**computed, **{key: fill(value, _DEFAULTS.get(key)) for key, value in identity.items()}}


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
