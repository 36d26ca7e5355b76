"""What a checkpoint says of its gated network: tasks, inputs and gates, as plain values.

A network that the user's code builds is described again and compared, so that weights never end in another network.
"""

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch

from gate2static.gates import GatedModel
from gate2static.messages import brief
from gate2static.program.annotate import info
from gate2static.program.value_ranges import ValueRange

Description = dict[str, Any]


def describe(gated: GatedModel) -> Description:
    """Describes a gated network.

    Args:
        gated: The network; it is not changed.

    Returns:
        `tasks`, in the order of the streams. `inputs`: their names, shapes without the batch, dtypes and `values`, the
        ranges of the example inputs. `gates`: unit -> its channels, the channels that share a gate, and the mixing.
        `ties`: the lists of units that share their gates. `versions`: library -> the version that made the network.
    """
    program = gated.program
    inputs = []
    placeholders = program.graph.find_nodes(op="placeholder")
    for name, node, values in zip(program.input_names, placeholders, program.ranges, strict=True):
        shape = list((info(node).shape or ())[1:])
        dtype = str(info(node).dtype).removeprefix("torch.")
        ends = None if values is None else list(values)
        inputs.append({"name": name, "shape": shape, "dtype": dtype, "values": ends})
    gates = {}
    tied: dict[int, list[str]] = {}
    for unit, gate in gated.gates.items():
        mixing = "hard" if gate.hard else "softmax"
        gates[unit] = {"channels": gate.channels, "group_size": gate.group_size, "mixing": mixing}
        tied.setdefault(id(gate.alpha), []).append(unit)
    return {
        "tasks": list(gated.tasks),
        "inputs": inputs,
        "gates": gates,
        "ties": [units for units in tied.values() if len(units) > 1],
        "versions": {"gate2static": version("gate2static"), "torch": str(torch.__version__)},
    }


def difference(stored: Mapping[str, Any], gated: GatedModel) -> str | None:
    """Returns the first difference between a stored description and a network in words; None where there is none.

    Args:
        stored: The description in a file, which need not be trusted.
        gated: The network that was built.
    """
    built = describe(gated)
    for part in ("tasks", "inputs", "gates", "ties"):
        old, new = (_comparable(part, description.get(part)) for description in (stored, built))
        if old == new:
            continue
        return f"{part}: {_first_difference(old, new)}{_other_versions(stored, built)}"
    return None


def with_stored_ranges(gated: GatedModel, stored: Mapping[str, Any]) -> None:
    """Gives a network the ranges of the example inputs that it was gated on when it was trained.

    Code that builds a network again often has random inputs for its example. The real ones say what values a network
    meets, and are those that inputs are drawn from when networks are compared.

    Args:
        gated: The network, changed in place; it has the inputs of the description.
        stored: The description in a file, which need not be trusted.
    """
    ranges = [_range(item.get("values"), item["dtype"]) for item in stored["inputs"]]
    gated.program = replace(gated.program, ranges=tuple(ranges))


def _range(values: Any, dtype: str) -> ValueRange | None:
    """Returns a range of a file; None where it is none."""
    kind = float if getattr(torch, dtype).is_floating_point else int
    if not isinstance(values, list) or len(values) != 2 or not all(type(value) is kind for value in values):
        return None
    low, high = values
    limits = torch.finfo(getattr(torch, dtype)) if kind is float else torch.iinfo(getattr(torch, dtype))
    # Compared and not converted: an integer of a file may be larger than any float. NaN is below nothing.
    return (low, high) if limits.min <= low <= high <= limits.max else None


def _comparable(part: str, value: Any) -> Any:
    """Returns the part of a description that two networks must have in common."""
    if part == "inputs" and isinstance(value, list):
        return [{k: v for k, v in item.items() if k != "values"} if isinstance(item, dict) else item for item in value]
    return value


def _first_difference(old: Any, new: Any) -> str:
    """Returns the first difference between two plain values of which the second is a built network's."""
    if isinstance(old, dict) and isinstance(new, dict):
        key = next(key for key in (*new, *old) if old.get(key) != new.get(key))
        return f"{brief(key, 60)}: {_first_difference(old.get(key), new.get(key))}"
    # Short lists of texts and numbers, such as shapes, are shown whole.
    are_lists = isinstance(old, list) and isinstance(new, list) and len(old) == len(new)
    if are_lists and all(isinstance(item, dict) for item in (*old, *new)):
        return next(_first_difference(a, b) for a, b in zip(old, new, strict=True) if a != b)
    return f"{_said(old)} in the file, {_said(new)} built"


def _said(value: Any) -> str:
    return "none" if value is None else brief(value, 160)


def _other_versions(stored: Mapping[str, Any], built: Description) -> str:
    """Returns a remark on versions where they differ, since what is traced may differ with them."""
    if stored.get("versions") == built["versions"]:
        return ""
    return f" (saved with {brief(stored.get('versions'), 100)}, built with {brief(built['versions'], 100)})"
