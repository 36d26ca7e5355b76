"""The names of a static network's outputs, and the structure that they stand for."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_INDEX = r"\d{1,4}"
"""What an index looks like. A longer number in a file would ask for a tuple that no memory holds."""

_NAME = r"[A-Za-z_]\w*(\.\w+){0,16}"
"""What the name of an output looks like."""


def are_output_names(names: Sequence[str]) -> bool:
    """Returns whether these can be the names of a network's outputs: each once, and none a part of another."""
    if len(set(names)) < len(names) or not all(re.fullmatch(_NAME, name) for name in names):
        return False
    containers = {name[:dot.start()] for name in names for dot in re.finditer(r"\.", name)}
    return containers.isdisjoint(names)


def structured(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Puts outputs together by their names: what has a dot in its name is part of a tuple or a dict.

    Args:
        outputs: Name -> output. `boxes.0` is the first item of a tuple of the task `boxes`, and `boxes.score` an item
            of a dict. An index that is missing, where a head returned None, is None in the tuple.

    Returns:
        Task -> its output, or the tuple or dict of its outputs.
    """
    parts: dict[str, dict[str, Any]] = {}
    for name, output in outputs.items():
        first, _, rest = name.partition(".")
        parts.setdefault(first, {})[rest] = output
    return {name: inside[""] if "" in inside else _container(structured(inside)) for name, inside in parts.items()}


def _container(items: dict[str, Any]) -> dict[str, Any] | tuple[Any, ...]:
    """Returns items as a tuple where their names are indices."""
    if not all(re.fullmatch(_INDEX, name) for name in items):
        return items
    numbered = {int(name): item for name, item in items.items()}
    return tuple(numbered.get(index) for index in range(max(numbered) + 1))
