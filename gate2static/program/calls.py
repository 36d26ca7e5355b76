"""How a network is called: its arguments by position or by name, and the tensors in them in one order."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gate2static.errors import GateError, TraceError
from gate2static.program.structures import Path, Structure, take_apart

_PLAIN = (bool, int, float, str, type(None))
"""Types of values that are compared where an argument need not be given because it has this value anyway."""

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Call:
    """The call of a network on its example inputs.

    Attributes:
        signature: The parameters of the network's forward, by name and kind; of their defaults only plain values.
        positional: The number of arguments that were given by position.
        structure: The arguments by name, without their tensors.
        names: A name for each tensor: that of its argument, numbered where an argument holds several.
        is_flat: Whether each argument is one tensor and can be given by position.
    """

    signature: inspect.Signature
    positional: int
    structure: Structure
    names: tuple[str, ...]
    is_flat: bool

    def tensors(self, args: Sequence[Any], named: Mapping[str, Any]) -> list[Tensor]:
        """Returns the tensors of another call in the order of `names`.

        Args:
            args: The arguments by position.
            named: The arguments by name.

        Raises:
            GateError: The arguments are not those that the network was gated with.
        """
        if self.is_flat and not named and len(args) == len(self.names) and all(isinstance(x, Tensor) for x in args):
            return list(args)
        try:
            tensors, structure = take_apart(_bound(self.signature, args, named))
        except TypeError as error:
            raise GateError(f"the network takes {self}, as in example_inputs of `gate`: {error}.") from None
        if structure.paths == self.structure.paths and structure.constants == self.structure.constants:
            return tensors
        by_path = dict(zip(structure.paths, tensors, strict=True))
        if set(by_path) != set(self.structure.paths) or self._fixed(structure) != self._fixed(self.structure):
            raise GateError(
                f"the network takes {self}, as in example_inputs of `gate`, and was given "
                f"{_described(structure)}; build it with example inputs of that form."
            )
        # Dicts in another order.
        return [by_path[path] for path in self.structure.paths]

    def arguments(self, tensors: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """Returns the arguments by position and by name, as in the call on the example inputs.

        Args:
            tensors: What stands for the tensors, in the order of `names`.
        """
        values = self.structure.build(tensors) if self.structure.paths else {}
        args: list[Any] = []
        named: dict[str, Any] = {}
        for parameter in self.signature.parameters.values():
            if parameter.name not in values:
                continue
            value = values[parameter.name]
            if parameter.kind is parameter.VAR_POSITIONAL:
                args.extend(value)
            elif parameter.kind is parameter.VAR_KEYWORD:
                named.update(value)
            elif parameter.kind is not parameter.KEYWORD_ONLY and len(args) < self.positional:
                args.append(value)
            else:
                named[parameter.name] = value
        return args, named

    def _fixed(self, structure: Structure) -> dict[Path, Any]:
        """Returns what is no tensor in some arguments, without arguments that have their default."""
        defaults = {name: parameter.default for name, parameter in self.signature.parameters.items()}
        return {
            path: value
            for path, value in structure.constants
            if len(path) > 1 or not _is_default(value, defaults[str(path[0].key)])
        }

    def __str__(self) -> str:
        return _described(self.structure)


Example = tuple[Call, tuple[Tensor, ...]]
"""A call, and the tensors of the example inputs in the order of its `names`."""


def call_of(module: nn.Module, inputs: Sequence[Any] | Mapping[str, Any], what: str) -> Example:
    """Returns how a module is called on its example inputs, and their tensors.

    Args:
        module: The module.
        inputs: The arguments of its forward by position, or by name where they are a dict.
        what: The module's name in an error.

    Raises:
        TraceError: The forward does not take such arguments.
    """
    args = () if isinstance(inputs, Mapping) else tuple(inputs)
    named = dict(inputs) if isinstance(inputs, Mapping) else {}
    signature = inspect.signature(module.forward)
    try:
        _bound(signature, args, named)
    except TypeError as error:
        given = f"the inputs {', '.join(named)} by name" if named else f"{len(args)} positional inputs"
        one_dict = "; a forward that takes one dict is given ({…},)" if named else ""
        raise TraceError(
            f"{what} cannot be called with {given}: {error}; its forward takes {signature}{one_dict}."
        ) from error
    plain = _without_objects(signature)
    tensors, structure = take_apart(_bound(plain, args, named))
    kinds = [plain.parameters[str(path[0].key)].kind for path in structure.paths]
    is_flat = all(len(path) == 1 for path in structure.paths) and not structure.constants
    call = Call(
        signature=plain,
        positional=len(args),
        structure=structure,
        names=_names(structure.paths, plain),
        is_flat=is_flat and all(kind in _BY_POSITION for kind in kinds) and _is_leading(structure.paths, plain),
    )
    return call, tuple(tensors)


def _is_leading(paths: Sequence[Path], signature: inspect.Signature) -> bool:
    """Returns whether these are the first parameters of a forward."""
    return [path[0].key for path in paths] == [*signature.parameters][: len(paths)]


def _without_objects(signature: inspect.Signature) -> inspect.Signature:
    """Returns a signature that can be stored: without annotations, and with plain defaults only."""
    parameters = []
    for parameter in signature.parameters.values():
        default = parameter.default
        is_kept = default is parameter.empty or isinstance(default, _PLAIN)
        parameters.append(parameter.replace(annotation=parameter.empty, default=default if is_kept else ...))
    return inspect.Signature(parameters)


def _bound(signature: inspect.Signature, args: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a call by the names of the parameters.

    Arguments by position that a forward has no place for are those that it takes by name only, in order.

    Raises:
        TypeError: The forward does not take such arguments.
    """
    parameters = list(signature.parameters.values())
    by_position = [p for p in parameters if p.kind in _BY_POSITION]
    count = len(args) if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(by_position)
    by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in named]
    if not 0 < len(args) - count <= len(by_name):
        return dict(signature.bind(*args, **named).arguments)
    return dict(signature.bind(*args[:count], **dict(zip(by_name, args[count:], strict=False)), **named).arguments)


def _is_default(value: Any, default: Any) -> bool:
    """Returns whether an argument is the plain default of its parameter."""
    return isinstance(value, _PLAIN) and type(value) is type(default) and value == default


def _names(paths: Sequence[Path], signature: inspect.Signature) -> tuple[str, ...]:
    """Returns a name for each tensor of the arguments, see `Call`."""
    names = []
    numbers: dict[str, int] = {}
    for argument, *inside in paths:
        name = str(argument.key)
        if len(inside) == 1 and signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            names.append(str(inside[0].key))
        elif inside:
            numbers[name] = numbers.get(name, 0) + 1
            names.append(f"{name}_{numbers[name]}")
        else:
            names.append(name)
    return tuple(names)


def _described(structure: Structure) -> str:
    """Returns the arguments of a call for a message."""
    constants = [f"{_written(path)}={value!r}" for path, value in structure.constants]
    return f"({', '.join([*map(_written, structure.paths), *constants])})"


def _written(path: Path) -> str:
    """Returns the way to a tensor as it is written in Python."""
    argument, *steps = path
    inside = [f".{step.key}" if step.is_attribute else f"[{step.key!r}]" for step in steps]
    return f"{argument.key}{''.join(inside)}"
