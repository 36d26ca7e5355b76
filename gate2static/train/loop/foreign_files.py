"""Files of other tools in the place of a checkpoint: what they are, and the way from them to one of ours."""

from collections.abc import Collection
from typing import Any

from torch import Tensor

_SAVE = 'gate2static.save_checkpoint(gated, path, model="package.module:build")'
_BRANCHES = "encoder.branches."
"""Names of a gated network's parameters begin with this, behind the names of what wraps it."""
_LIGHTNING = "pytorch-lightning_version"
_OF_MODULES = {"_parameters", "_modules"}
"""Attributes that every pickled module has."""
MARKS = frozenset({_LIGHTNING, *_OF_MODULES})
"""Texts by which files with pickled objects are recognised."""
_SAFETENSORS_HEADER = 8
"""The bytes in front of a safetensors file's JSON: its length."""


def what_it_is(content: Any) -> str:
    """Returns what somebody's file is, and what to do with it.

    Args:
        content: The content as plain values and tensors.
    """
    if _is_state(content):
        return _state_dict(content, "a bare state dict")
    if not isinstance(content, dict):
        return f"a {type(content).__name__}; give a checkpoint that gate2static wrote"
    if _LIGHTNING in content:
        return _of_lightning()
    state = next((key for key, value in content.items() if isinstance(key, str) and _is_state(value)), None)
    if state is None:
        return "a dict without weights; give a checkpoint that gate2static wrote"
    return _state_dict(content[state], f"a dict with a state dict under {state[:60]!r}")


def what_pickle_is(marks: Collection[str]) -> str | None:
    """Returns what a file with pickled objects is, and what to do with it; None where that is unknown.

    Args:
        marks: Those of the `MARKS` that stand in its pickled part, which is not run.
    """
    if _LIGHTNING in marks:
        return _of_lightning()
    if _OF_MODULES.issubset(marks):
        return (
            "a whole pickled module, and reading it would run code from the file; where you trust it, read it in "
            f"Python with torch.load(path, weights_only=False), then write it with {_SAVE}"
        )
    return None


def what_bytes_are(head: bytes) -> str | None:
    """Returns what a file is that is no zip archive, and what to do with it; None where that is unknown.

    Args:
        head: Its first bytes.
    """
    if head[_SAFETENSORS_HEADER : _SAFETENSORS_HEADER + 1] == b"{" and head[4:_SAFETENSORS_HEADER] == bytes(4):
        return (
            "a safetensors file, which holds tensors alone; build the gated network in Python, load them with "
            f"gated.load_state_dict(safetensors.torch.load_file(path)), then write it with {_SAVE}"
        )
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return (
            "a pickle file, and reading it would run code from the file; where you trust it, read it in Python with "
            f"torch.load(path, weights_only=False), then write its network with {_SAVE}"
        )
    return None


def _of_lightning() -> str:
    return (
        "a checkpoint of Lightning; read it in Python with YourModule.load_from_checkpoint(path), then write the gated "
        f"network inside with {_SAVE}"
    )


def _state_dict(state: dict[str, Tensor], what: str) -> str:
    if any(_BRANCHES in name for name in state):
        return (
            f"{what}, of a gated network; build that in Python, load the state dict with gated.load_state_dict, then "
            f"write it with {_SAVE}"
        )
    return (
        f"{what}, of a network without gates; load it into your backbone, then gate that with gate2static.gate and "
        f"train the gates; {_SAVE} writes the result"
    )


def _is_state(value: Any) -> bool:
    """Returns whether a value is a state dict: tensors by name."""
    is_named = isinstance(value, dict) and bool(value) and all(isinstance(name, str) for name in value)
    return is_named and all(isinstance(tensor, Tensor) for tensor in value.values())
