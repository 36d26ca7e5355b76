"""`ckpt.pt`: tensors and plain values in torch's zip format, never anything that has to be executed to be read."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gate2static.errors import CheckpointError
from gate2static.recipe import Recipe
from gate2static.train.loop.atomic import write_atomically

FORMAT = "gate2static-checkpoint"
VERSION = 1
FILE = "ckpt.pt"
BEST_FILE = "ckpt-best.pt"
PARTS = ("kind", "identity", "recipe", "model", "optimisers", "random", "position")
"""What every checkpoint holds, besides the format's name and version."""


def kept(recipe: Recipe) -> str:
    """The file of each network that goes on: into its row, and into the gated network that starts from it."""
    return BEST_FILE if recipe.training.keep == "best" else FILE


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint atomically, with the format's name and version inside.

    Raises:
        TrainingError: The file cannot be written; an older checkpoint at `path` is untouched.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **content}, buffer)
    write_atomically(path, buffer.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU without executing anything that it holds.

    Raises:
        CheckpointError: Missing, truncated, not ours, from a newer format, or holding more than tensors and plain
            values.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; training writes it as {FILE}")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path}: not a checkpoint, or one that was cut off ({path.stat().st_size} bytes, no zip directory at the "
            "end); train again or use another copy"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors and plain values, so nothing of it was loaded "
            f"({_first_sentence(error)}); only use checkpoints that gate2static wrote"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: damaged: {_first_sentence(error)}; use another copy") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a gate2static checkpoint, though torch can read it")
    found = content.get("version")
    if not isinstance(found, int) or found != VERSION:
        newer = isinstance(found, int) and found > VERSION
        raise CheckpointError(
            f"{path}: has checkpoint format {found!r}, this version of gate2static reads {VERSION}; "
            + ("update gate2static" if newer else "train again")
        )
    if missing := [part for part in PARTS if part not in content]:
        raise CheckpointError(f"{path}: damaged: lacks {', '.join(missing)}; use another copy")
    state = content["model"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: damaged: its weights are no tensors by name; use another copy")
    return content


def load_weights(model: nn.Module, state: dict[str, Tensor], *, where: str) -> None:
    """Loads a state dict whose keys and shapes must be the model's.

    Raises:
        CheckpointError: It is another model's; names the first differences.
    """
    own = model.state_dict()
    differences = [f"{key} is missing" for key in own if key not in state]
    differences += [f"{key} is not in the model" for key in state if key not in own]
    differences += [
        f"{key} is {tuple(state[key].shape)}, the model's is {tuple(own[key].shape)}"
        for key in state
        if key in own and state[key].shape != own[key].shape
    ]
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise CheckpointError(
            f"{where}: for another model: {'; '.join(differences[:3])}{more}; use the recipe it was trained with"
        )
    model.load_state_dict(state)


def _first_sentence(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:160]
