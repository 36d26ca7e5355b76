"""`StaticModel`: the pruned network as a plain module, and its folder on disk."""

import hashlib
import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gate2static.errors import ArtefactError
from gate2static.files import write_atomically
from gate2static.graphs import quiet
from gate2static.static.aten import ANY_BATCH
from gate2static.static.deploy.pipeline import deploy
from gate2static.static.graph_json import graph_from_dict, graph_to_dict
from gate2static.static.manifest import FORMAT, FORMAT_VERSION, Manifest

_GRAPH, _WEIGHTS, _MANIFEST = "graph.json", "weights.safetensors", "manifest.json"


class StaticModel(nn.Module):
    """A static multi-task network: one forward pass, every task's output, any batch size.

    Attributes:
        network: the graph of tensor operators; returns a tuple over tasks.
        manifest: what it is and where it came from.
    """

    def __init__(self, network: fx.GraphModule, manifest: Manifest) -> None:
        super().__init__()
        self.network, self.manifest = network, manifest
        self.eval()

    @property
    def tasks(self) -> tuple[str, ...]:
        """In the order of the outputs."""
        return self.manifest.tasks

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """The backbone's inputs, batch first -> task -> output.

        Raises:
            ArtefactError: inputs of other shapes; sizes that the backbone's code read are constants here.
        """
        found, expected = [tuple(x.shape[1:]) for x in inputs], [spec.shape for spec in self.manifest.inputs]
        if found != expected:
            raise ArtefactError(
                f"the static network takes inputs of shape {_shapes(expected)}, and was given {_shapes(found)}. "
                "Resize them, or gate and prune with example inputs of that size."
            )
        return dict(zip(self.tasks, self.network(*inputs), strict=True))

    def train(self, mode: bool = True) -> "StaticModel":
        """A static network has no training mode: it stays in eval mode."""
        return super().train(False)

    def example_inputs(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        """Standard-normal inputs (zeros for integers) of the right shapes, the same at every call."""
        generator = torch.Generator().manual_seed(0)
        made = []
        for spec in self.manifest.inputs:
            shape, dtype = (batch_size, *spec.shape), getattr(torch, spec.dtype)
            made.append(
                torch.randn(shape, generator=generator).to(dtype)
                if dtype.is_floating_point
                else torch.zeros(shape, dtype=dtype)
            )
        return tuple(made)

    def deployed(self) -> "StaticModel":
        """Returns the form that is deployed: norms and mixing weights folded, in float64 and rounded once.

        Where the network was pruned for a target that is faster so, channels are moved by convolutions, or as rows.
        """
        wanted = self.manifest
        network = deploy(
            self.network,
            self.example_inputs(),
            convolve_moves=wanted.convolve_moves,
            channels_first=wanted.channels_first,
        )
        return StaticModel(network, wanted.model_copy(update={"convolve_moves": False, "channels_first": False}))

    def fold_norms(self) -> "StaticModel":
        """Returns `deployed()`; deprecated, to be removed in 0.3."""
        warnings.warn(
            "StaticModel.fold_norms() is called deployed() now; the old name goes in 0.3.",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.deployed()

    def save(self, folder: Path | str) -> None:
        """Write `graph.json`, `weights.safetensors` and `manifest.json`; the folder appears whole or not at all.

        Raises:
            ArtefactError: the folder cannot be written, or it exists and is not a static model's.
        """
        folder = Path(folder)
        check_replaceable(folder)
        graph, weights = serialise(self.network)
        manifest = self.manifest.model_copy(update={"digest": digest(graph, weights)})
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            try:
                (staging / _GRAPH).write_bytes(graph)
                (staging / _WEIGHTS).write_bytes(weights)
                (staging / _MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
                staging.chmod(0o755)
                _swap(staging, folder)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        except OSError as error:
            raise ArtefactError(f"cannot write the static model {folder}: {error}.") from error


def check_replaceable(folder: Path) -> None:
    """Finds out whether a static model may be saved there, before the work.

    Raises:
        ArtefactError: something else is there.
    """
    if folder.exists() and not (folder / _MANIFEST).is_file() and not _is_empty(folder):
        raise ArtefactError(f"{folder} exists and is not a static model; choose another folder or remove it.")


def load_static(folder: Path | str) -> StaticModel:
    """Read a static model; safe on files from strangers: no pickle, no code from the file.

    Raises:
        ArtefactError: missing, incomplete, altered, unsafe or from a newer format.
    """
    folder = Path(folder)
    if missing := [n for n in (_MANIFEST, _GRAPH, _WEIGHTS) if not (folder / n).is_file()]:
        raise ArtefactError(
            f"{folder} is not a static model: {', '.join(missing)} missing. `gate2static prune` makes one."
        )
    manifest = read_manifest(folder)
    graph, weights = (folder / _GRAPH).read_bytes(), (folder / _WEIGHTS).read_bytes()
    if digest(graph, weights) != manifest.digest:
        raise ArtefactError(
            f"{folder} was altered or is incomplete: its digest differs from the manifest's. Prune again."
        )
    try:
        network = graph_from_dict(json.loads(graph), load_tensors(weights))
    except (ValueError, RecursionError, SafetensorError) as error:
        raise ArtefactError(f"{folder} cannot be read: {error}.") from error
    model = StaticModel(network, manifest)
    if (reason := _inconsistency(model)) is not None:
        raise ArtefactError(f"{folder} is not consistent: graph and manifest disagree: {reason}.")
    return model


def _inconsistency(model: StaticModel) -> str | None:
    """Why the network is not the one that the manifest describes, if so; found on tensors without content."""
    manifest = model.manifest
    if manifest.tasks != tuple(spec.name for spec in manifest.outputs):
        return "outputs are not named for the tasks"
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), quiet():
            inputs = [torch.empty((ANY_BATCH, *s.shape), dtype=getattr(torch, s.dtype)) for s in manifest.inputs]
            found = fx.Interpreter(model.network).run(*inputs)
    except Exception as error:  # noqa: BLE001 - whatever a stranger's graph does wrong
        return f"it does not run on the inputs: {' '.join(str(error).split())[:200]}"
    shapes = [(tuple(x.shape[1:]), str(x.dtype).removeprefix("torch.")) for x in found]
    expected = [(spec.shape, spec.dtype) for spec in manifest.outputs]
    return None if shapes == expected else f"outputs are {shapes}, not {expected}"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a static model's folder.

    Raises:
        ArtefactError: missing, not ours, or from a newer format.
    """
    path = folder / _MANIFEST
    try:
        content: Any = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}.") from error
    ours = isinstance(content, dict) and content.get("format") == FORMAT and type(content.get("version")) is int
    if not ours or content["version"] < 1:
        raise ArtefactError(f"{path} is not the manifest of a static model.")
    if content["version"] > FORMAT_VERSION:
        raise ArtefactError(
            f"{path} has format version {content['version']}; this gate2static reads up to {FORMAT_VERSION}. "
            "Upgrade gate2static."
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ArtefactError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error
    if len(set(manifest.tasks)) != len(manifest.tasks):
        raise ArtefactError(f"{path} names a task twice: {', '.join(manifest.tasks)}.")
    names = (*manifest.tasks, *(spec.name for spec in manifest.inputs))
    if bad := [name for name in names if not re.fullmatch(r"[A-Za-z_]\w*", name)]:
        raise ArtefactError(f"{path} names tasks or inputs {bad}; allowed are letters, digits and underscores.")
    for spec in (*manifest.inputs, *manifest.outputs):
        if not isinstance(getattr(torch, spec.dtype, None), torch.dtype):
            raise ArtefactError(f"{path} names the dtype {spec.dtype!r}, which torch does not have.")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest of a static model's folder, atomically."""
    write_atomically(folder / _MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode(), error=ArtefactError)


def serialise(network: fx.GraphModule) -> tuple[bytes, bytes]:
    """Graph and weights as they are saved."""
    graph = json.dumps(graph_to_dict(network.graph), separators=(",", ":")).encode()
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    return graph, dump_tensors(tensors)


def digest(graph: bytes, weights: bytes) -> str:
    """SHA-256 over both."""
    return hashlib.sha256(len(graph).to_bytes(8, "little") + graph + weights).hexdigest()


def _shapes(shapes: Iterable[tuple[int, ...]]) -> str:
    return ", ".join(f"(batch, {', '.join(map(str, shape))})" for shape in shapes) or "none"


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _swap(staging: Path, folder: Path) -> None:
    """Put `staging` where `folder` is."""
    if not folder.exists():
        staging.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    try:
        folder.rename(old / "previous")
        try:
            staging.rename(folder)
        except OSError:
            (old / "previous").rename(folder)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
