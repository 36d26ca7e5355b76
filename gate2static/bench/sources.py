"""What can be timed: a torch network, an ONNX model, an engine; and how each is found from what the user named."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Union

import torch
from torch import Tensor, nn

from gate2static.errors import BenchError
from gate2static.export.engine_sidecar import EngineSidecar, read_sidecar
from gate2static.files import read_bytes

if TYPE_CHECKING:
    from gate2static.static import StaticModel

Target = Union["StaticModel", tuple[nn.Module, tuple[Tensor, ...]], str, Path]
"""A static network, any module with its inputs, a static folder, an `.onnx` or an `.engine` file."""


@dataclass(frozen=True, kw_only=True)
class TorchSource:
    """A torch network in evaluation mode, with its inputs for a batch size.

    Attributes:
        static: the static network behind it, which ONNX can be made from; None for any other module.
    """

    network: nn.Module
    inputs: Callable[[int], tuple[Tensor, ...]]
    static: "StaticModel | None" = None


@dataclass(frozen=True, kw_only=True)
class OnnxSource:
    """A whole ONNX model in memory; `label` names it in errors."""

    data: bytes
    label: str


@dataclass(frozen=True, kw_only=True)
class EngineSource:
    """An engine file and what its sidecar says of it."""

    path: Path
    sidecar: EngineSidecar


Source = TorchSource | OnnxSource | EngineSource


def named_sources(targets: Mapping[str, Target] | Sequence[Target]) -> dict[str, Source]:
    """Resolve targets; those of a list are named for their file or folder.

    Raises:
        BenchError: nothing to time, or a target that is not one of the four kinds.
        ArtefactError: a static folder that cannot be loaded.
        ExportError: an engine that is not its sidecar's.
    """
    named = targets if isinstance(targets, Mapping) else dict(zip(_names(targets), targets, strict=True))
    if not named:
        raise BenchError("nothing to time: pass at least one static folder, .onnx or .engine file")
    return {name: _source(target) for name, target in named.items()}


def _source(target: Target) -> Source:
    if isinstance(target, (str, Path)):
        return _from_path(Path(target))
    if isinstance(target, tuple):
        module, inputs = target
        return TorchSource(network=module, inputs=lambda batch_size: _repeat_first(inputs, batch_size))
    return TorchSource(network=target.deployed(), inputs=target.example_inputs, static=target)


def _from_path(path: Path) -> Source:
    if path.is_dir():
        from gate2static.static import load_static

        return _source(load_static(path))
    if path.suffix == ".onnx":
        return OnnxSource(data=read_bytes(path, what="ONNX file", error=BenchError), label=path.name)
    if path.suffix in (".engine", ".plan"):
        return EngineSource(path=path, sidecar=read_sidecar(path))
    found = "an unknown kind of file" if path.exists() else "missing"
    raise BenchError(f"{path} cannot be timed: it is {found}; allowed: a static folder, an .onnx or an .engine file")


def _repeat_first(inputs: tuple[Tensor, ...], batch_size: int) -> tuple[Tensor, ...]:
    return tuple(torch.cat([x[:1]] * batch_size) for x in inputs)


def _names(targets: Sequence[Target]) -> list[str]:
    """A static folder with the folder it is in ("shared/static"), a file alone unless two are alike, a class name."""
    short = [_describe(target) for target in targets]
    twice = {name for name, count in Counter(short).items() if count > 1}
    longer = [_describe(target, with_folder=name in twice) for name, target in zip(short, targets, strict=True)]
    return [f"{name} #{i}" if longer.count(name) > 1 else name for i, name in enumerate(longer, 1)]


def _describe(target: Target, *, with_folder: bool = False) -> str:
    if not isinstance(target, (str, Path)):
        return type(target[0] if isinstance(target, tuple) else target).__name__
    path = Path(target)
    return f"{path.parent.name}/{path.name}" if path.parent.name and (with_folder or path.is_dir()) else path.name
