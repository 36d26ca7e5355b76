"""YAML that need not be trusted: bounded in length, depth, and in what its aliases expand to."""

import re
from collections.abc import Callable
from typing import Any

import yaml

LONGEST_TEXT = 65_536
"""The most characters of a recipe; ours have up to 2,500."""
MOST_VALUES = 10_000
"""The most values of a recipe, where an alias counts as often as it is used."""
DEEPEST = 16
"""The most mappings and lists around a value."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number; PyYAML's own rule needs 1.0e-3 and reads 1e-3 as a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(text: str) -> Any:
    """Returns the plain values of YAML text.

    Raises:
        ValueError: The text is not YAML, or longer, deeper or larger than any recipe. The message is one short line.
    """
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"it has {len(text):,} characters; allowed are {LONGEST_TEXT:,}")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_expansion(node)
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("its values are nested too deep") from None
    # Constructors raise whatever Python says of dates that do not exist and numbers that are too long.
    except (yaml.YAMLError, AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None


def _check_expansion(root: yaml.Node) -> None:
    """Raises a ValueError where a document is too large before its aliases are followed, which merging copies."""

    def parts(node: yaml.Node) -> list[yaml.Node]:
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            return [part for pair in node.value for part in pair]
        return list(node.value) if isinstance(node, yaml.SequenceNode) else []

    _check_extent(root, parts, ", aliases counted as often as they are used")


def _check_extent(root: Any, parts: Callable[[Any], list[Any]], counted: str = "") -> None:
    """Raises a ValueError where a structure holds more values, or nests them deeper, than any recipe.

    Args:
        root: The structure.
        parts: Returns the values that a value holds.
        counted: How values are counted, for the message.
    """
    count = 0
    level = [root]
    for _ in range(DEEPEST + 1):
        count += len(level)
        if count > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES:,} values{counted}")
        children: list[Any] = []
        for value in level:
            children += parts(value)
            if len(children) > MOST_VALUES:
                break
        if not children:
            return
        level = children
    raise ValueError(f"its values are nested deeper than {DEEPEST}")


def _check_keys(mapping: yaml.MappingNode) -> None:
    """Raises a ValueError where a key stands twice, of which YAML would take the last."""
    seen = set()
    for key, _ in mapping.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise ValueError(f"the key {key.value[:60]!r} stands twice, at line {key.start_mark.line + 1} again")
            seen.add(key.value)


def check_plain(value: Any) -> None:
    """Raises a ValueError where plain values from anywhere are larger or deeper than any recipe's.

    Args:
        value: Mappings, lists, texts and numbers, which may hold one another.
    """

    def parts(item: Any) -> list[Any]:
        if isinstance(item, dict):
            return [*item, *item.values()]
        if isinstance(item, list | tuple):
            return list(item)
        if isinstance(item, str) and len(item) > LONGEST_TEXT:
            raise ValueError(f"a text of {len(item):,} characters; allowed are {LONGEST_TEXT:,}")
        if isinstance(item, int) and item.bit_length() > 64:
            raise ValueError("a number of more than 64 bits")
        return []

    _check_extent(value, parts)
