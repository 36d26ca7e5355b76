"""Reading of files of weights. No code from a file is run."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gate2static.data.files import home_path
from gate2static.errors import RecipeError
from gate2static.files import read_bytes

WRAPPERS = ("state_dict", "model")
"""The entries below which training code saves a state dict beside other things."""


def read_weights(file: str) -> dict[str, Tensor]:
    """Reads a state dict in the order of the file.

    Args:
        file: The path as in a recipe: a `.safetensors` file, or one that torch saved (`.pt`, `.pth`), whose state dict
            may be its entry `state_dict` or `model`.

    Raises:
        RecipeError: The file is missing, broken, or holds anything but named tensors.
    """
    path = home_path(file)
    content = read_bytes(path, what="weights file", error=RecipeError)
    try:
        loaded = _load(path, content)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 -- decoders raise any exception on a broken file
        reason = " ".join(str(error).split())[:200]
        raise RecipeError(f"model.options.weights: {path} cannot be read as a file of weights: {reason}") from None
    state = _unwrapped(loaded)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise RecipeError(
            f"model.options.weights: {path} holds {_described(state)}; allowed: tensors by name (a state dict), "
            f"or these as the entry {' or '.join(WRAPPERS)}"
        )
    return {str(name): value.detach() for name, value in state.items()}


def _load(path: Path, content: bytes) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load

        return load(content)
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _unwrapped(loaded: Any) -> Any:
    if not isinstance(loaded, dict):
        return loaded
    return next((loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), dict)), loaded)


def _described(state: Any) -> str:
    if not isinstance(state, dict):
        return type(state).__name__
    others = (f"{name}: {type(value).__name__}" for name, value in state.items() if not isinstance(value, Tensor))
    return next(others, "nothing")
