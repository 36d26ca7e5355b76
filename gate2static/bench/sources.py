"""The sources of networks to time: torch networks, ONNX models and engines, given as objects or paths."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import torch
from torch import Tensor, nn

from gate2static.arguments import require_kind, require_path
from gate2static.errors import BenchError
from gate2static.export.engine_sidecar import EngineSidecar, read_sidecar
from gate2static.runtimes.onnx_file import read_onnx

if TYPE_CHECKING:
    from gate2static.static import StaticModel

NetworkOrFile = Union["StaticModel", tuple[nn.Module, tuple[Tensor, ...]], str, Path]
"""A network to time: a static network, any module with its inputs, a static folder, an `.onnx` or an `.engine` file."""


@dataclass(frozen=True, kw_only=True)
class TorchSource:
    """A torch network with its inputs.

    Attributes:
        network: The network in evaluation mode.
        inputs: Returns the inputs for a batch size.
        static: The static network behind it, which can be exported to ONNX; None for other modules.
    """

    network: nn.Module
    inputs: Callable[[int], tuple[Tensor, ...]]
    static: "StaticModel | None" = None


@dataclass(frozen=True, kw_only=True)
class OnnxSource:
    """A whole ONNX model in memory.

    Attributes:
        data: The content of the ONNX file.
        label: The model's name in error messages.
    """

    data: bytes
    label: str


@dataclass(frozen=True, kw_only=True)
class EngineSource:
    """An engine file.

    Attributes:
        path: The file's path.
        sidecar: The description that was written beside the engine.
    """

    path: Path
    sidecar: EngineSidecar


Source = TorchSource | OnnxSource | EngineSource


def named_sources(targets: Mapping[str, NetworkOrFile] | Sequence[NetworkOrFile]) -> dict[str, Source]:
    """Loads the sources of networks to time.

    Args:
        targets: The networks by name, or a list of networks that are named after their file or folder.

    Raises:
        BenchError: There is nothing to time, or a target is not a network or a file of a known kind.
        ArtefactError: A static folder cannot be loaded.
        ExportError: An engine does not belong to its sidecar.
    """
    # One network alone is a list of one.
    if isinstance(targets, str | Path | nn.Module):
        targets = [targets]
    allowed = "a list of networks and files, or a dict of them by name"
    require_kind(targets, (Mapping, Sequence), name="what to time", allowed=allowed, error=BenchError)
    by_name = targets if isinstance(targets, Mapping) else dict(zip(_names(targets), targets, strict=True))
    for name in by_name:
        require_kind(name, str, name="the name of a target", allowed="a string", error=BenchError)
    if not by_name:
        raise BenchError("nothing to time: pass at least one static folder, .onnx or .engine file")
    return {name: _source(target) for name, target in by_name.items()}


def _source(target: NetworkOrFile) -> Source:
    if isinstance(target, (str, Path)):
        return _from_path(require_path(target, name="a file or folder to time", error=BenchError))
    if isinstance(target, tuple):
        module, inputs = _module_and_inputs(target)
        return TorchSource(network=module, inputs=lambda batch_size: _repeat_first(inputs, batch_size))
    from gate2static.static.model import static_model

    static = static_model(target, error=BenchError)
    return TorchSource(network=static.deployed(), inputs=static.example_inputs, static=static)


def _module_and_inputs(target: tuple[Any, ...]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Returns the parts of a pair of a module and its inputs."""
    is_pair = len(target) == 2 and isinstance(target[0], nn.Module)
    if not (is_pair and isinstance(target[1], tuple | list) and all(isinstance(x, Tensor) for x in target[1])):
        kinds = ", ".join(type(part).__name__ for part in target)
        raise BenchError(f"a target is a tuple of {kinds}; allowed is (module, inputs), inputs a tuple of tensors")
    return target[0], tuple(target[1])


def _from_path(path: Path) -> Source:
    if path.is_dir():
        # Only folders need the static stage; timing an ONNX file stays quick to start.
        from gate2static.static import load_static

        return _source(load_static(path))
    if path.suffix == ".onnx":
        return OnnxSource(data=read_onnx(path, error=BenchError), label=path.name)
    if path.suffix in (".engine", ".plan"):
        return EngineSource(path=path, sidecar=read_sidecar(path))
    problem = "an unknown kind of file" if path.exists() else "missing"
    raise BenchError(f"{path} cannot be timed: it is {problem}; allowed: a static folder, an .onnx or an .engine file")


def _repeat_first(inputs: tuple[Tensor, ...], batch_size: int) -> tuple[Tensor, ...]:
    # Equal samples, because timing does not depend on values and other inputs may not exist.
    return tuple(torch.cat([x[:1]] * batch_size) for x in inputs)


def _names(targets: Sequence[NetworkOrFile]) -> list[str]:
    """Returns different names for all targets.

    A static folder is named with its parent folder ("shared/static"), a file with its parent folder only where two
    files have the same name, and a network by its class. A number distinguishes names that are still equal.
    """
    short_names = [_describe(target) for target in targets]
    ambiguous = {name for name, count in Counter(short_names).items() if count > 1}
    names = [
        _describe(target, with_folder=name in ambiguous) for name, target in zip(short_names, targets, strict=True)
    ]
    return [f"{name} #{number}" if names.count(name) > 1 else name for number, name in enumerate(names, 1)]


def _describe(target: NetworkOrFile, *, with_folder: bool = False) -> str:
    if not isinstance(target, (str, Path)):
        return type(target[0] if isinstance(target, tuple) else target).__name__
    path = Path(target)
    return f"{path.parent.name}/{path.name}" if path.parent.name and (with_folder or path.is_dir()) else path.name
