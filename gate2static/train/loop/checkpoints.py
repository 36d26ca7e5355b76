"""The checkpoint file `ckpt.pt`: tensors and plain values in torch's zip format, which loads without running code."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gate2static.errors import CheckpointError
from gate2static.files import open_regular
from gate2static.recipe import Recipe
from gate2static.train.atomic import write_atomically
from gate2static.train.loop.checkpoint_archive import check_archive, seal
from gate2static.train.loop.foreign_files import what_it_is

FORMAT = "gate2static-checkpoint"
VERSION = 1
FILE = "ckpt.pt"
BEST_FILE = "ckpt-best.pt"
_SEALED = "sealed"
"""The key that says that the archive has a digest; checkpoints from before 0.2 have neither."""
OWN = "own"
"""The kind of a checkpoint that an own training loop saved: only the user's code can build its network."""
_KINDS = ("single", "shared", "gated", "architecture", OWN)
PARTS = ("kind", "identity", "recipe", "model", "optimisers", "random", "position")
"""The keys of every checkpoint of a run, besides the format's name and version."""
OWN_PARTS = ("kind", "builder", "network", "model", "position")
"""The same of the checkpoint of an own training loop."""


def kept(recipe: Recipe) -> str:
    """Returns the name of the checkpoint that a run uses further: for its result, and to start the gated network."""
    return BEST_FILE if recipe.training.keep == "best" else FILE


def epoch_file(epoch: int) -> str:
    """Returns the name of the checkpoint that is kept of one epoch, for branches that start there."""
    return f"ckpt-epoch-{epoch}.pt"


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint atomically, with the format's name and version inside.

    Args:
        path: The file to write.
        content: At least the `PARTS`.

    Raises:
        TrainingError: The file cannot be written; an older checkpoint at `path` is untouched.
    """
    write_atomically(path, serialised(content).getbuffer())


def serialised(content: dict[str, Any]) -> io.BytesIO:
    """Returns the bytes of a checkpoint, in memory because a file is written whole or not at all."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **content, _SEALED: True}, buffer)
    seal(buffer)
    return buffer


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of a run onto the CPU without running code from it.

    Raises:
        CheckpointError: The file is missing, truncated, not ours, from a newer format, holds more than tensors and
            plain values, or was saved by an own training loop.
    """
    content = read_checkpoint(path)
    if content["kind"] == OWN:
        raise CheckpointError(
            f"{path}: was saved by `save_checkpoint`, and belongs to no run; prune, verify and profile take it, with "
            "--model package.module:build"
        )
    return content


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of a run or of an own training loop onto the CPU without running code from it.

    Raises:
        CheckpointError: The file is missing, truncated, not ours, from a newer format, or holds more than tensors and
            plain values.
    """
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint; training writes it as {FILE}") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise CheckpointError(f"{path}: cannot be read: {_first_line(error)}; give a checkpoint, {FILE}") from None
    with file:
        is_sealed = check_archive(file, path)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{path}: holds more than tensors and plain values, so nothing of it was loaded "
                f"({_first_line(error)}); only use checkpoints that gate2static wrote"
            ) from None
        except Exception as error:  # noqa: BLE001 - whatever a damaged archive makes torch do
            raise CheckpointError(f"{path}: damaged: {_first_line(error)}; use another copy") from None
    _check_content(content, path)
    if content.pop(_SEALED, False) and not is_sealed:
        raise CheckpointError(f"{path}: damaged: its digest is missing or was altered; use another copy")
    checked: dict[str, Any] = content
    return checked


def load_weights(
    model: nn.Module, state: dict[str, Tensor], *, where: str, advice: str = "use the recipe it was trained with"
) -> None:
    """Loads a state dict into a model that has exactly its keys and shapes.

    Args:
        model: The model to change.
        state: Tensors by name.
        where: The origin of the state dict, for the error message.
        advice: The end of the error message.

    Raises:
        CheckpointError: The state dict belongs to another model; the message names the first differences.
    """
    expected = model.state_dict()
    differences = [f"{key} is missing" for key in expected if key not in state]
    differences += [f"{key} is not in the model" for key in state if key not in expected]
    differences += [
        f"{key} is {tuple(state[key].shape)}, the model's is {tuple(expected[key].shape)}"
        for key in state
        if key in expected and state[key].shape != expected[key].shape
    ]
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise CheckpointError(
            f"{where}: for another model: {'; '.join(differences[:3])}{more}; {advice}"
        )
    model.load_state_dict(state)


def _check_content(content: Any, path: Path) -> None:
    """Raises a CheckpointError unless the content is a whole checkpoint of a version that can be read."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a gate2static checkpoint, though torch can read it: {what_it_is(content)}")
    version = content.get("version")
    if not isinstance(version, int) or version != VERSION:
        is_newer = isinstance(version, int) and version > VERSION
        raise CheckpointError(
            f"{path}: has checkpoint format {version!r}, this version of gate2static reads {VERSION}; "
            + ("update gate2static" if is_newer else "train again")
        )
    _check_parts(content, path)
    state = content["model"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: damaged: its weights are no tensors by name; use another copy")
    for name, value in state.items():
        # A view can repeat one number a trillion times.
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: damaged: {str(name)[:60]} repeats what it stores; use another copy")


def _check_parts(content: dict[str, Any], path: Path) -> None:
    """Raises a CheckpointError unless all parts of a checkpoint of its kind are there, and are of their types."""
    parts = OWN_PARTS if content.get("kind") == OWN else PARTS
    if missing := [part for part in parts if part not in content]:
        raise CheckpointError(f"{path}: damaged: lacks {', '.join(missing)}; use another copy")
    if not isinstance(content["kind"], str) or content["kind"] not in _KINDS:
        raise CheckpointError(f"{path}: damaged: its kind is {str(content['kind'])[:60]!r}; use another copy")
    for part in ("builder", "network", "identity", "recipe", "model", "position"):
        if part not in parts:
            continue
        if not isinstance(content[part], dict):
            raise CheckpointError(f"{path}: damaged: its {part} is a {type(content[part]).__name__}; use another copy")


def _first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, at most 160 characters."""
    return (str(error).strip() or type(error).__name__).split("\n", 1)[0][:160]
