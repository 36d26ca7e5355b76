"""Signatures of modules, by which a later stage sees that a module is not the one that was traced."""

import types
from collections.abc import Iterable, Mapping
from typing import Any

from torch import fx, nn

from gate2static.program.operators import BATCH_NORMS

Signature = tuple[Any, ...]
"""What is equal for modules that a trace follows in the same way."""

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_PLAIN = (int, float, complex, str, bytes, type(None), type, types.FunctionType, types.BuiltinFunctionType)
_TRAINING_ONLY = frozenset({"momentum", "inplace", "p", "track_running_stats"})
"""Settings of torch's layers that change nothing once they are deployed."""


def signature_of(module: nn.Module) -> Signature:
    """Returns the classes and the plain attributes of a module and all below it."""
    return tuple((name, type(part), _plain_attributes(part)) for name, part in module.named_modules())


def layer_signatures(root: nn.Module, graph: fx.Graph) -> dict[str, Signature]:
    """Returns name -> signature of the modules that a graph calls."""
    targets = dict.fromkeys(str(node.target) for node in graph.find_nodes(op="call_module"))
    return {target: layer_signature(root.get_submodule(target)) for target in targets}


def layer_signature(layer: nn.Module) -> Signature:
    """Returns the class of a layer and, of torch's layers, the settings that it was made with."""
    # Synchronised over processes or not, a batch norm computes the same when it is deployed.
    kind = "BatchNorm" if type(layer) in BATCH_NORMS else type(layer)
    names = getattr(layer, "__constants__", ())
    own = vars(layer)
    settings = {name: own[name] for name in names if name in own and name not in _TRAINING_ONLY}
    return kind, tuple(sorted((name, _plain(value)) for name, value in settings.items()))


def replaced_layers(
    signatures: Mapping[str, Signature], branches: Mapping[str, nn.Module]
) -> Iterable[tuple[str, str, nn.Module | None]]:
    """Finds layers that are not those that were traced.

    Args:
        signatures: Name -> signature when the trace was taken.
        branches: Stream -> its copy of the traced network.

    Yields:
        The stream, the layer's name, and what stands there now; None where there is nothing.
    """
    first = next(iter(branches))
    for stream, branch in branches.items():
        for name, signature in signatures.items():
            try:
                layer = branch.get_submodule(name)
            except AttributeError:
                # What all streams compute alike runs once, with the layer of the first one.
                if stream == first:
                    yield stream, name, None
                continue
            if layer_signature(layer) != signature:
                yield stream, name, layer


def _plain_attributes(module: nn.Module) -> Signature:
    own = {name: value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE}
    return tuple((name, _plain(value)) for name, value in own.items() if _is_plain(value))


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(x) for pair in value.items() for x in pair)
    return isinstance(value, _PLAIN)


def _plain(value: Any) -> Any:
    """Returns a value that is compared by its content, also after the attribute was changed in place."""
    if isinstance(value, list | tuple):
        return type(value).__name__, tuple(map(_plain, value))
    if isinstance(value, dict):
        return "dict", tuple((_plain(key), _plain(content)) for key, content in value.items())
    return frozenset(value) if isinstance(value, set) else value
