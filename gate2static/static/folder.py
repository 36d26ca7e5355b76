"""A static model's folder: `graph.json`, `weights.safetensors` and `manifest.json`.

A folder appears whole or not at all: it is written under another name beside its place, and renamed. Reading runs no
code from it and checks its digest.
"""

import hashlib
import json
import re
import shutil
import tempfile
from contextlib import suppress
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

_GRAPH = "graph.json"
_WEIGHTS = "weights.safetensors"
_MANIFEST = "manifest.json"
_PREVIOUS = "previous"
_OURS = re.compile(r"graph\.json|weights\.safetensors|manifest\.json|\.manifest\.json\.[0-9a-f]{16}\.tmp")
"""What a static model's folder holds; the last is what a killed `write_manifest` may leave."""


def write_folder(folder: Path, network: fx.GraphModule, manifest: Manifest) -> None:
    """Writes a static model's folder, which appears whole or not at all.

    Args:
        folder: The folder, which may hold an earlier static model.
        network: The captured network.
        manifest: The network's manifest; its digest is computed anew.

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
            (staging / _MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
            staging.chmod(0o755)  # `mkdtemp` makes folders that nobody else can read
            _swap(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise ArtefactError(f"cannot write the static model {folder}: {error}.") from error


def read_folder(folder: Path) -> tuple[fx.GraphModule, Manifest]:
    """Reads network and manifest, and checks that neither was altered.

    Args:
        folder: A folder that need not be trusted.

    Raises:
        ArtefactError: The folder is missing, incomplete, altered, unsafe or from a newer format.
    """
    missing = [name for name in (_MANIFEST, _GRAPH, _WEIGHTS) if not (folder / name).is_file()]
    if missing:
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
    """Refuses a folder that holds anything else than a static model, before the work.

    Args:
        folder: A folder in which a static model is to be saved; what is replaced is removed.

    Raises:
        ArtefactError: Something else is there.
    """
    if not folder.exists() or _is_empty(folder):
        return
    advice = "choose another folder or remove it."
    if not (folder / _MANIFEST).is_file():
        raise ArtefactError(f"{folder} exists and is not a static model; {advice}")
    try:
        _check_format(folder / _MANIFEST, _read_json(folder / _MANIFEST), newer=True)
    except ArtefactError as error:
        # Many tools write a file of this name.
        raise ArtefactError(f"{folder} exists and is not a static model: {error} So {advice}") from error
    others = sorted(entry.name for entry in folder.iterdir() if not _OURS.fullmatch(entry.name))
    if others:
        raise ArtefactError(
            f"{folder} is a static model's, but also holds {', '.join(others)}, which would be removed; move that "
            "elsewhere, or choose another folder."
        )


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a static model's folder.

    Args:
        folder: A folder that need not be trusted.

    Raises:
        ArtefactError: The manifest is missing, not ours, or from a newer format.
    """
    path = folder / _MANIFEST
    content = _read_json(path)
    _check_format(path, content)
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ArtefactError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error
    _check_names(path, manifest)
    return manifest


def _read_json(path: Path) -> Any:
    """Reads a JSON file that need not be trusted.

    Raises:
        ArtefactError: The file cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}.") from error


def _check_format(path: Path, content: Any, *, newer: bool = False) -> None:
    """Refuses what is not a manifest, or comes from a newer format.

    Args:
        path: The file, for messages.
        content: The file's JSON.
        newer: Whether a newer format will do.

    Raises:
        ArtefactError: The format is not ours, or its version is unknown.
    """
    is_ours = (
        isinstance(content, dict)
        and content.get("format") == FORMAT
        and type(content.get("version")) is int  # True is none
    )
    if not is_ours or content["version"] < 1:
        raise ArtefactError(f"{path} is not the manifest of a static model.")
    if content["version"] > FORMAT_VERSION and not newer:
        raise ArtefactError(
            f"{path} has format version {content['version']}; this gate2static reads up to {FORMAT_VERSION}. "
            "Upgrade gate2static."
        )


def _check_names(path: Path, manifest: Manifest) -> None:
    """Refuses names that tasks, inputs and dtypes cannot have.

    Args:
        path: The file, for messages.
        manifest: The manifest, whose types are right.

    Raises:
        ArtefactError: A name that occurs twice, is no name, or that torch does not have.
    """
    if len(set(manifest.tasks)) != len(manifest.tasks):
        raise ArtefactError(f"{path} names a task twice: {', '.join(manifest.tasks)}.")
    names = (*manifest.tasks, *(spec.name for spec in manifest.inputs))
    bad = [name for name in names if not re.fullmatch(r"[A-Za-z_]\w*", name)]
    if bad:
        raise ArtefactError(f"{path} names tasks or inputs {bad}; allowed are letters, digits and underscores.")
    for spec in (*manifest.inputs, *manifest.outputs):
        if not isinstance(getattr(torch, spec.dtype, None), torch.dtype):
            raise ArtefactError(f"{path} names the dtype {spec.dtype!r}, which torch does not have.")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replaces the manifest of a static model's folder, atomically.

    Args:
        folder: The folder of a static model.
        manifest: The new manifest.

    Raises:
        ArtefactError: The manifest cannot be written; the old one is untouched.
    """
    text = manifest.model_dump_json(indent=2) + "\n"
    write_atomically(folder / _MANIFEST, text.encode(), error=ArtefactError)


def serialise(network: fx.GraphModule) -> tuple[bytes, bytes]:
    """Returns the content of the graph file and of the weights file."""
    graph = json.dumps(graph_to_dict(network.graph), separators=(",", ":")).encode()
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    return graph, dump_tensors(tensors)


def digest(graph: bytes, weights: bytes) -> str:
    """Returns the SHA-256 over graph and weights, as 64 hexadecimal digits."""
    # The length comes first, so that no byte can move from one file to the other.
    length = len(graph).to_bytes(8, "little")
    return hashlib.sha256(length + graph + weights).hexdigest()


def _is_empty(folder: Path) -> bool:
    """Returns whether a path is a folder without files."""
    return folder.is_dir() and not any(folder.iterdir())


def _swap(staging: Path, folder: Path) -> None:
    """Puts `staging` where `folder` is, and removes the old folder.

    Args:
        staging: The new folder, beside the old one.
        folder: The old folder, which may be missing.

    Raises:
        OSError: The folder cannot be replaced; the old one is in its place again.
    """
    if not folder.exists():
        staging.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    previous = old / _PREVIOUS
    try:
        folder.rename(previous)
        try:
            staging.rename(folder)
        except OSError:
            previous.rename(folder)
            raise
    except OSError:
        with suppress(OSError):
            old.rmdir()  # not empty where the old folder could not be put back: it stays there
        raise
    shutil.rmtree(old, ignore_errors=True)
