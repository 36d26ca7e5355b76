"""A static network's folder: `graph.json`, `weights.safetensors` and `manifest.json`."""

import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import fx

from gate2static.errors import ArtefactError
from gate2static.files import write_atomically
from gate2static.static.graph_json import graph_from_dict, graph_to_dict
from gate2static.static.manifest import FORMAT, FORMAT_VERSION, Manifest

_GRAPH, _WEIGHTS, _MANIFEST = "graph.json", "weights.safetensors", "manifest.json"


def write_folder(folder: Path, network: fx.GraphModule, manifest: Manifest) -> None:
    """Writes the folder; it appears whole or not at all.

    Raises:
        ArtefactError: The folder cannot be written, or it exists and is not a static model's.
    """
    check_replaceable(folder)
    graph, weights = serialise(network)
    manifest = manifest.model_copy(update={"digest": digest(graph, weights)})
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


def read_folder(folder: Path) -> tuple[fx.GraphModule, Manifest]:
    """Reads network and manifest, and checks that neither was altered.

    Raises:
        ArtefactError: Missing, incomplete, altered, unsafe or from a newer format.
    """
    if missing := [n for n in (_MANIFEST, _GRAPH, _WEIGHTS) if not (folder / n).is_file()]:
        raise ArtefactError(
            f"{folder} is not a static model: {', '.join(missing)} missing. `gate2static prune` makes one."
        )
    manifest = read_manifest(folder)
    graph = (folder / _GRAPH).read_bytes()
    weights = (folder / _WEIGHTS).read_bytes()
    if digest(graph, weights) != manifest.digest:
        raise ArtefactError(
            f"{folder} was altered or is incomplete: its digest differs from the manifest's. Prune again."
        )
    try:
        network = graph_from_dict(json.loads(graph), load_tensors(weights))
    except (ValueError, RecursionError, SafetensorError) as error:
        raise ArtefactError(f"{folder} cannot be read: {error}.") from error
    return network, manifest


def check_replaceable(folder: Path) -> None:
    """Finds out whether a static model may be saved there, before the work.

    Raises:
        ArtefactError: Something else is there.
    """
    if folder.exists() and not (folder / _MANIFEST).is_file() and not _is_empty(folder):
        raise ArtefactError(f"{folder} exists and is not a static model; choose another folder or remove it.")


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a static model's folder.

    Raises:
        ArtefactError: Missing, not ours, or from a newer format.
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
    """Replaces the manifest of a static model's folder, atomically."""
    write_atomically(folder / _MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode(), error=ArtefactError)


def serialise(network: fx.GraphModule) -> tuple[bytes, bytes]:
    """Returns graph and weights as they are saved."""
    graph = json.dumps(graph_to_dict(network.graph), separators=(",", ":")).encode()
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    return graph, dump_tensors(tensors)


def digest(graph: bytes, weights: bytes) -> str:
    """Returns the SHA-256 over both."""
    return hashlib.sha256(len(graph).to_bytes(8, "little") + graph + weights).hexdigest()


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _swap(staging: Path, folder: Path) -> None:
    """Puts `staging` where `folder` is."""
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
