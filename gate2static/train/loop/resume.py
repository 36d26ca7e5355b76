"""Saving and resuming the training of one network, bit for bit on the CPU."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gate2static.errors import CheckpointError
from gate2static.recipe import DecoderRecipe, GatingRecipe, TrainingRecipe
from gate2static.train.loop import checkpoints, random_state
from gate2static.train.loop.network_run import NetworkRun, split_targets
from gate2static.train.loop.position import Position
from gate2static.train.processes.devices import on_first_process

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_DEFAULTS: dict[str, Any] = {
    "gating": GatingRecipe().model_dump(mode="json"),
    "model": {"decoder": DecoderRecipe().model_dump(mode="json")},
    **{f"training.{key}": value for key, value in TrainingRecipe().model_dump(mode="json").items()},
}
"""The values of settings that older checkpoints do not name, because the settings came later."""


def save(run: NetworkRun, position: Position, *, fabric: "Fabric", best: bool = False, **parts: Any) -> None:
    """Writes the checkpoint of a training on the first process, with everything that an exact resume needs.

    Args:
        run: The training to save.
        position: How far the training has come.
        fabric: The processes and devices of the training.
        best: Whether this is the best epoch so far, which has a checkpoint of its own.
        parts: Further objects with a `state_dict`, or dicts of such objects, by their name in the checkpoint.

    Raises:
        TrainingError: The disk is full.
    """
    content = {
        "kind": run.kind,
        "identity": run.identity,
        "recipe": run.recipe.model_dump(mode="json"),
        "model": run.model.state_dict(),
        **{name: _states(part) for name, part in parts.items()},
        **random_state.gather(),
        "position": asdict(position),
    }
    # The last checkpoint is written last: resuming from it finds the best one complete, or writes it again.
    files = [run.best_checkpoint] if best else []
    if run.kind == "shared" and position.epoch == run.recipe.gating.branch_epoch and position.step == 0:
        files.append(run.checkpoint.with_name(checkpoints.epoch_file(position.epoch)))
    files.append(run.checkpoint)

    def write() -> None:
        for file in files:
            checkpoints.save_checkpoint(file, content)

    on_first_process(fabric, write)


def resume(run: NetworkRun, **parts: Any) -> Position:
    """Restores a training from its last checkpoint.

    Args:
        run: The training to restore; its model gets the checkpoint's weights.
        parts: Further objects to restore, as `save` takes them.

    Returns:
        How far the training had come.

    Raises:
        CheckpointError: The checkpoint cannot be read, or belongs to another recipe; the message names a difference.
    """
    content = checkpoints.load_checkpoint(run.checkpoint)
    try:
        return _restored(run, content, parts)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"{run.checkpoint}: damaged: its training state does not fit ({type(error).__name__}: {reason}); use "
            "another copy, or start in another folder"
        ) from error


def check_identity(saved: dict[str, Any], current: dict[str, Any], path: Path) -> None:
    """Refuses a checkpoint that belongs to another recipe.

    Args:
        saved: The identity in the checkpoint.
        current: The identity of the network to train.
        path: The checkpoint, for the error message.

    Raises:
        CheckpointError: They differ; the message names a difference.
    """
    if different := differences(saved, current):
        raise CheckpointError(
            f"{path}: was trained with another {different[0]}; "
            "resume with the recipe it was started with, or start in another folder"
        )


def differences(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """Returns the parts of a recipe in which a checkpoint's identity differs from another one, with a difference each.

    Args:
        saved: The identity in the checkpoint.
        current: The identity of the network to train.
    """
    saved = _with_defaults(saved)
    # Only current keys count: an older checkpoint may name settings that no longer exist.
    return [
        f"{key}: {_difference(saved.get(key), value)}" for key, value in current.items() if saved.get(key) != value
    ]


def _restored(run: NetworkRun, content: dict[str, Any], parts: dict[str, Any]) -> Position:
    check_identity(content["identity"], run.identity, run.checkpoint)
    checkpoints.load_weights(run.model, content["model"], where=str(run.checkpoint))
    for name, part in parts.items():
        _load_states(part, content.get(name, {}))
    random_state.scatter(content)
    position = Position(**content["position"])
    position.sums.pop("images", None)  # older checkpoints counted them
    return position


def _states(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: member.state_dict() for name, member in part.items()}
    return part.state_dict()


def _load_states(part: Any, state: Any) -> None:
    if isinstance(part, dict):
        for name, member in part.items():
            member.load_state_dict(state[name])
    elif state:  # checkpoints from before a part existed hold nothing for it
        part.load_state_dict(state)


def _with_defaults(identity: dict[str, Any]) -> dict[str, Any]:
    """Returns the identity of an older checkpoint in today's form, with defaults for settings that came later."""

    def fill(value: Any, default: Any) -> Any:
        if isinstance(value, dict) and isinstance(default, dict):
            return {**default, **{key: fill(part, default.get(key)) for key, part in value.items()}}
        return value

    # Older checkpoints had the targets inside the tasks.
    targets, tasks = split_targets(identity["tasks"])
    identity = {"targets": targets, **identity, "tasks": tasks}
    scalars = {key: value for key, value in _DEFAULTS.items() if not isinstance(value, dict)}
    return {**scalars, **{key: fill(value, _DEFAULTS.get(key)) for key, value in identity.items()}}


def _difference(saved: Any, current: Any) -> str:
    """Returns the first difference between two plain values, with the path to it."""
    if isinstance(saved, dict) and isinstance(current, dict):
        for key in (*current, *saved):
            if saved.get(key) != current.get(key):
                return f"{key}: {_difference(saved.get(key), current.get(key))}"
    if isinstance(saved, list) and isinstance(current, list) and len(saved) == len(current):
        index = next(i for i, (a, b) in enumerate(zip(saved, current, strict=True)) if a != b)
        return f"item {index}: {_difference(saved[index], current[index])}"
    return f"{saved} there, {current} here"
