"""Structures of tensors: what a forward takes and returns, taken apart into its tensors and put together again.

A structure is a tensor, or a tuple, list, dict, named tuple or dataclass of structures, or a class that was registered
with torch's pytree, as the outputs of other libraries are. What is no tensor, such as None, stays in its place.
"""

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Step:
    """One step from a structure into it.

    Attributes:
        key: A key, an index, or the name of an attribute.
        is_attribute: Whether the key is the name of an attribute.
    """

    key: Any
    is_attribute: bool

    def take(self, value: Any) -> Any:
        """Returns the part of a value that the step leads to."""
        return getattr(value, self.key) if self.is_attribute else operator.getitem(value, self.key)


Path = tuple[Step, ...]
"""The steps from a structure to one of its tensors."""


def follow(path: Path, value: Any) -> Any:
    """Returns the part of a structure that a path leads to."""
    for step in path:
        value = step.take(value)
    return value


@dataclass(frozen=True)
class Structure:
    """A structure without its tensors.

    Attributes:
        template: The structure, with a place for each tensor.
        paths: The way to each tensor, in the order in which they are taken out.
        constants: The way to each value that is neither a tensor nor a container, and that value.
    """

    template: Any
    paths: tuple[Path, ...]
    constants: tuple[tuple[Path, Any], ...]

    @property
    def is_tensor(self) -> bool:
        """Whether the structure is a single tensor."""
        return self.paths == ((),)

    def build(self, tensors: Sequence[Any]) -> Any:
        """Returns the structure with these tensors, in the order of `paths`."""
        return tensors[0] if self.is_tensor else _filled(self.template, tensors)


@dataclass(frozen=True)
class _Place:
    """The place of a tensor in a template."""

    number: int


@dataclass(frozen=True)
class _Container:
    """A container that torch's pytree knows, in a template."""

    spec: pytree.TreeSpec
    parts: tuple[Any, ...]


@dataclass(frozen=True)
class _Record:
    """A dataclass in a template, which is put together without running its constructor again."""

    kind: type
    names: tuple[str, ...]
    parts: tuple[Any, ...]


def take_apart(value: Any) -> tuple[list[Any], Structure]:
    """Returns the tensors of a structure in order, or what stands for them while tracing, and the rest of it."""
    parts = _Parts([], [], [])
    template = parts.template(value, ())
    return parts.tensors, Structure(template, tuple(parts.paths), tuple(parts.constants))


def tensors_of(value: Any) -> list[Any]:
    """Returns the tensors of a structure in order, or what stands for them while tracing."""
    return take_apart(value)[0]


@dataclass
class _Parts:
    """The parts of a structure that were met so far; see `Structure` for the attributes."""

    tensors: list[Any]
    paths: list[Path]
    constants: list[tuple[Path, Any]]

    def template(self, value: Any, path: Path) -> Any:
        """Returns a value as a template, and takes its tensors out.

        Args:
            value: The value, which may hold torch.fx's proxies and nodes in place of tensors.
            path: The way to it.
        """
        if isinstance(value, Tensor | fx.Proxy | fx.Node):
            self.tensors.append(value)
            self.paths.append(path)
            return _Place(len(self.tensors) - 1)
        parts, spec = pytree.tree_flatten(value, is_leaf=lambda part: part is not value)
        if not spec.is_leaf():
            return _Container(spec, self._templates(parts, _steps(value, len(parts)), path))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            # What a constructor computed besides the fields comes back as well.
            names = dict.fromkeys([*(f.name for f in dataclasses.fields(value)), *getattr(value, "__dict__", ())])
            present = tuple(name for name in names if hasattr(value, name))
            steps = [Step(name, is_attribute=True) for name in present]
            return _Record(type(value), present, self._templates([s.take(value) for s in steps], steps, path))
        self.constants.append((path, value))
        return value

    def _templates(self, parts: Sequence[Any], steps: Sequence[Step], path: Path) -> tuple[Any, ...]:
        """Returns the parts of a container as templates."""
        return tuple(self.template(part, (*path, step)) for part, step in zip(parts, steps, strict=True))


def _steps(container: Any, count: int) -> list[Step]:
    """Returns the steps to the parts of a container that torch's pytree knows."""
    if isinstance(container, Mapping):
        return [Step(key, is_attribute=False) for key in container]
    fields = getattr(container, "_fields", None)
    if fields is not None:
        return [Step(name, is_attribute=True) for name in fields]
    return [Step(index, is_attribute=False) for index in range(count)]


def _filled(template: Any, tensors: Sequence[Any]) -> Any:
    """Returns a template with tensors in their places."""
    if isinstance(template, _Place):
        return tensors[template.number]
    if isinstance(template, _Container):
        return pytree.tree_unflatten([_filled(part, tensors) for part in template.parts], template.spec)
    if isinstance(template, _Record):
        record: Any = object.__new__(template.kind)
        for name, part in zip(template.names, template.parts, strict=True):
            # A frozen dataclass refuses `setattr`.
            object.__setattr__(record, name, _filled(part, tensors))
        return record
    return template
