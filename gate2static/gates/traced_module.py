"""What is left in a branch of a module whose forward was traced: its layers and parameters, but none of its code."""

from typing import Any

from torch import nn

from gate2static.errors import GateError

_OWN = frozenset(vars(nn.Module()))
"""Attributes that every module has."""


class TracedModule(nn.Module):
    """A module without code, which refuses what only its code would have read.

    The trace read attributes such as a temperature once; to set one later would change nothing.
    """

    _traced_name: str
    _traced_attributes: frozenset[str]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_traced_attributes", ()) and not self._holds(name):
            raise GateError(
                f"{name!r} of {self._traced_name} was fixed when the backbone was traced, so setting it would change "
                "nothing; set it before `gate`, or make it a buffer of the backbone, which can be filled later."
            )
        super().__setattr__(name, value)

    def _holds(self, name: str) -> bool:
        return any(name in held for held in (self._parameters, self._buffers, self._modules))


def mark_traced(branch: nn.Module, backbone: nn.Module) -> None:
    """Lets the modules of a branch that were traced refuse to have their attributes set.

    Args:
        branch: A copy of the backbone as `lift` leaves it, changed in place.
        backbone: The backbone, whose modules have the same names.
    """
    originals = dict(backbone.named_modules(remove_duplicate=False))
    for name, module in branch.named_modules():
        original = originals.get(name)
        # What torch.fx makes to hold layers is a plain module.
        if type(module) is not nn.Module or original is None:
            continue
        module.__class__ = TracedModule
        module._traced_name = f"{name!r}" if name else "the backbone"  # type: ignore[assignment]
        module._traced_attributes = _attributes(original)  # type: ignore[assignment]


def mark_alike(branch: nn.Module, marked: nn.Module) -> None:
    """Lets the modules of a branch refuse what those of another branch refuse.

    Args:
        branch: A copy of the other branch as `lift` leaves it, changed in place.
        marked: A branch that `mark_traced` has marked.
    """
    others = dict(marked.named_modules(remove_duplicate=False))
    for name, module in branch.named_modules():
        other = others.get(name)
        if type(module) is nn.Module and isinstance(other, TracedModule):
            module.__class__ = TracedModule
            module._traced_name = other._traced_name  # type: ignore[assignment]
            module._traced_attributes = other._traced_attributes  # type: ignore[assignment]


def _attributes(module: nn.Module) -> frozenset[str]:
    """Returns the names of what a module has besides its methods and what every module has."""
    names = {*vars(module), *module._parameters, *module._buffers, *module._modules}
    for kind in type(module).__mro__:
        if kind is nn.Module:
            break
        names.update(name for name, value in vars(kind).items() if not callable(value) and not name.startswith("__"))
    return frozenset(names - _OWN)
