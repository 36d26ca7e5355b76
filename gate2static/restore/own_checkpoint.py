"""`save_checkpoint` and `load_checkpoint`: the gated network of an own training loop, as tensors and plain values."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gate2static.arguments import described, require_kind, require_path
from gate2static.errors import CheckpointError
from gate2static.files import write_atomically
from gate2static.gates import GatedModel
from gate2static.gates.model import gated_model
from gate2static.messages import brief
from gate2static.plugins import call, import_named, is_code_name, require_code_name
from gate2static.restore.description import describe, difference, with_stored_ranges
from gate2static.train import load_gated
from gate2static.train.loop import checkpoints
from gate2static.train.loop.checkpoint_archive import check_archive

Build = Callable[..., GatedModel]
"""Options by name -> the network that `gate` makes."""
_DEEPEST = 16
"""The most lists and dicts around a plain value."""


def save_checkpoint(
    gated: GatedModel, path: str | Path, *, model: str, options: Mapping[str, Any] | None = None
) -> None:
    """Writes a gated network of an own training loop, for `load_checkpoint` and the command line.

    The file has the weights and gates, what the network was gated with, the name of the code that builds it, and a
    digest. It holds tensors and plain values only, and is written whole or not at all.

    Args:
        gated: The network, or what wraps it for training; it is not changed.
        path: The file.
        model: The name of the function that builds the network again, such as `package.module:build`. It takes the
            options by name and returns what `gate` returns. The name is stored as text.
        options: The arguments of that function, as plain values: numbers, texts, booleans, None, and lists and dicts of
            these.

    Raises:
        CheckpointError: The network is none, the name or an option is not allowed, the network holds what is no plain
            tensor, or the file cannot be written.
    """
    gated = gated_model(gated, error=CheckpointError)
    file = require_path(path, name="the checkpoint's path", error=CheckpointError)
    content = {
        "kind": checkpoints.OWN,
        "builder": {"model": require_code_name(model, what="model", error=CheckpointError), "options": _plain(options)},
        "network": describe(gated),
        "model": plain_state(gated),
        "position": {},
    }
    buffer = checkpoints.serialised(content)
    # A subclass of tensors would be pickled by its class, which no reader takes.
    check_archive(buffer, file)
    write_atomically(file, buffer.getbuffer(), error=CheckpointError)


def load_checkpoint(path: str | Path, model: str | Build | None = None) -> GatedModel:
    """Reads a checkpoint without running code from it, and returns its gated network in evaluation mode.

    Args:
        path: A file that `save_checkpoint` wrote, or the `ckpt.pt` of a run.
        model: What builds the network: a function, or its name, such as `package.module:build`, which is imported. It
            is called with the options in the file. None for checkpoints of runs, whose recipe says it all.

    Raises:
        CheckpointError: The file cannot be read, nothing says what builds its network, or the network that was built is
            another one than the file's; the message says what to do.
    """
    file = require_path(path, name="the checkpoint's path", error=CheckpointError)
    content = checkpoints.read_checkpoint(file)
    if content["kind"] != checkpoints.OWN:
        if model is not None:
            raise CheckpointError(f"{file}: a run wrote it, and its recipe builds its network; leave out the model")
        return load_gated(file)[0]
    stored_name, options = _builder(content, file)
    if model is None:
        raise CheckpointError(
            f"{file}: was saved by an own training loop, and only its own code can build its network. Name that code: "
            f'--model {stored_name}, or load_checkpoint(path, model="{stored_name}"). This name stands in the file, '
            f"and nothing was imported; it is called with the options {brief(options, 200)}."
        )
    name, build = _function(model)
    gated = _built(build, name, options, file)
    if found := difference(content["network"], gated):
        asked = "" if name == stored_name else f", and the file was saved for {stored_name}"
        raise CheckpointError(
            f"{file}: {name} builds another network: {found}{asked}; build it as it was trained, with the options "
            f"{brief(options, 200)}"
        )
    advice = f"build it in {name} as it was trained"
    checkpoints.load_weights(gated, content["model"], where=str(file), advice=advice)
    with_stored_ranges(gated, content["network"])
    return gated.eval()


def plain_state(gated: GatedModel) -> dict[str, Tensor]:
    """Returns the state dict of a gated network as tensors that share nothing with it, on the CPU.

    Args:
        gated: The network; it is not changed.

    Raises:
        CheckpointError: It holds something that is no tensor with numbers.
    """
    copies: dict[int, Tensor] = {}
    state = {}
    for name, value in gated.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor) or value.is_meta:
            raise CheckpointError(f"the network's {name} is {described(value)}; allowed are tensors with numbers")
        # Tied units have the same parameter.
        if id(value) not in copies:
            copies[id(value)] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        state[name] = copies[id(value)]
    return state


def _plain(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns options as they are stored."""
    allowed = "a dict of plain values by name"
    given = {} if options is None else options
    require_kind(given, Mapping, name="options", allowed=allowed, error=CheckpointError)
    if bad := [name for name in given if not (isinstance(name, str) and name.isidentifier())]:
        raise CheckpointError(f"options are named {brief(bad, 80)}; allowed are names of arguments, such as 'width'.")
    if bad := [name for name, value in given.items() if not _is_plain(value)]:
        raise CheckpointError(
            f"the option {bad[0]!r} is {described(given[bad[0]])}; allowed are numbers, texts, booleans, None, and "
            "lists and dicts of these."
        )
    return dict(given)


def _is_plain(value: Any, depth: int = _DEEPEST) -> bool:
    """Returns whether a value is one of plain Python, nested no deeper than this."""
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(key, str) and _is_plain(item, depth - 1) for key, item in value.items())
    if isinstance(value, list | tuple):
        return depth > 0 and all(_is_plain(item, depth - 1) for item in value)
    return value is None or type(value) in (bool, int, float, str)


def _builder(content: dict[str, Any], path: Path) -> tuple[str, dict[str, Any]]:
    """Returns the stored name of what builds the network, and its options.

    Raises:
        CheckpointError: They are not what `save_checkpoint` writes.
    """
    builder = content["builder"]
    name = builder.get("model")
    options = builder.get("options")
    is_whole = is_code_name(name) and isinstance(options, dict)
    if not is_whole or not _is_plain(content["network"]):
        raise CheckpointError(f"{path}: damaged: it does not say what builds its network; use another copy")
    return str(name), _plain(options)


def _function(model: str | Build) -> tuple[str, Build]:
    """Returns a name for messages, and what builds the network."""
    build: Any = model
    if isinstance(model, str):
        build = import_named(model, what="--model", error=CheckpointError)
    name = model if isinstance(model, str) else getattr(model, "__qualname__", type(model).__name__)
    if not callable(build):
        raise CheckpointError(
            f"{name} is {described(build)}; allowed is a function that returns what gate2static.gate returns, or its "
            "name, such as package.module:build."
        )
    return name, build


def _built(build: Build, name: str, options: dict[str, Any], path: Path) -> GatedModel:
    """Calls what builds the network.

    Raises:
        CheckpointError: It does not take the options, fails, or returns no gated network.
    """
    # Random first weights and example inputs are the same each time, and nobody's generator moves on.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        result = call(build, name, options, where=str(path), error=CheckpointError)
    if not isinstance(result, GatedModel):
        raise CheckpointError(
            f"{name} returned {described(result)}; it must return what gate2static.gate returns, a GatedModel."
        )
    return result
