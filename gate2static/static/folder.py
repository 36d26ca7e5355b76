"""A static model's folder: `graph.json`, `weights.safetensors` and `manifest.json`.

A folder appears whole or not at all. Reading runs no code from it, checks its digest, and is bounded by what the
manifest says of the network.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import save as dump_tensors
from torch import fx

from gate2static.errors import ArtefactError
from gate2static.files import is_file, read_bytes, write_atomically
from gate2static.static.graph_json import graph_from_dict, graph_to_dict
from gate2static.static.manifest import FORMAT, FORMAT_VERSION, Manifest
from gate2static.static.outputs import are_output_names
from gate2static.static.vetting.consistency import inconsistency
from gate2static.static.vetting.weights_file import read_tensors
from gate2static.static.whole_folder import replace_folder
from gate2static.strict_json import first_problem, parse_json, read_json

_GRAPH = "graph.json"
_WEIGHTS = "weights.safetensors"
_MANIFEST = "manifest.json"
_LARGEST_GRAPH = 2**25
"""The most bytes of a graph: 32 MiB, several times that of the largest network that was ever pruned here."""
_BYTES_PER_PARAMETER = 64
_OTHER_WEIGHTS_BYTES = 2**28
"""The most bytes of weights that the manifest does not count: constants, positions and the file's own header."""
_OURS = re.compile(r"graph\.json|weights\.safetensors|manifest\.json|\.manifest\.json\.[0-9a-f]{16}\.tmp")
"""What a static model's folder holds; the last is what a killed `write_manifest` may leave."""


def write_folder(folder: Path, network: fx.GraphModule, manifest: Manifest) -> None:
    """Writes a static model's folder, which appears whole or not at all.

    Args:
        folder: The folder, which may hold an earlier static model.
        network: The captured network.
        manifest: The network's manifest; its digest is computed anew.

    Raises:
        ArtefactError: The folder cannot be written, it exists and is not a static model's, or reading it would refuse
            the network.
    """
    check_replaceable(folder)
    graph, weights = serialise(network)
    manifest = manifest.model_copy(update={"digest": digest(graph, weights)})
    _check_readable(graph, weights, manifest)
    files = {_GRAPH: graph, _WEIGHTS: weights, _MANIFEST: _manifest_text(manifest)}
    try:
        replace_folder(folder, files)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise ArtefactError(f"cannot write the static model {folder}: {error}.") from error


def _check_readable(graph: bytes, weights: bytes, manifest: Manifest) -> None:
    """Refuses what `load_static` would refuse, with the same functions.

    Raises:
        ArtefactError: The network is larger than those that are loaded, or not the one that the manifest describes.
    """
    reason: str | None
    if len(graph) > _LARGEST_GRAPH or len(weights) > _largest_weights(manifest):
        reason = f"its graph has {len(graph):,} bytes and its weights {len(weights):,}"
    else:
        try:
            _check_names(Path(_MANIFEST), manifest)
            reason = inconsistency(_network(graph, weights, Path(_GRAPH)), manifest)
        except (ArtefactError, ValueError) as error:
            reason = str(error).removesuffix(".")
    if reason is not None:
        raise ArtefactError(
            f"the static network cannot be saved, since `load_static` would refuse it: {reason}. Export it as it is "
            "with `export_onnx`, or gate a smaller network or one with smaller inputs."
        )


def read_folder(folder: Path) -> tuple[fx.GraphModule, Manifest]:
    """Reads network and manifest, and checks that neither was altered.

    Args:
        folder: A folder that need not be trusted.

    Raises:
        ArtefactError: The folder is missing, incomplete, altered, unsafe or from a newer format.
    """
    missing = [name for name in (_MANIFEST, _GRAPH, _WEIGHTS) if not is_file(folder / name)]
    if missing:
        raise ArtefactError(
            f"{folder} is not a static model: {', '.join(missing)} missing. `gate2static prune` makes one."
        )
    manifest = read_manifest(folder)
    graph = read_bytes(folder / _GRAPH, what="graph", error=ArtefactError, largest=_LARGEST_GRAPH)
    weights = read_bytes(folder / _WEIGHTS, what="weights", error=ArtefactError, largest=_largest_weights(manifest))
    if digest(graph, weights) != manifest.digest:
        raise ArtefactError(
            f"{folder} was altered or is incomplete: its digest differs from the manifest's. Prune again."
        )
    try:
        return _network(graph, weights, folder / _GRAPH), manifest
    except (ArtefactError, ValueError) as error:
        raise ArtefactError(f"{folder} cannot be read: {error}") from error


def _largest_weights(manifest: Manifest) -> int:
    """Returns the most bytes of weights that a network of its manifest may have."""
    return _OTHER_WEIGHTS_BYTES + _BYTES_PER_PARAMETER * max(0, manifest.parameters.static)


def _network(graph: bytes, weights: bytes, path: Path) -> fx.GraphModule:
    """Rebuilds a network from the content of its files.

    Args:
        graph: The content of the graph file.
        weights: The content of the weights file.
        path: The graph file, for messages.

    Raises:
        ArtefactError: They are no graph of known operators, or no tensors that are ours.
    """
    return graph_from_dict(parse_json(graph, where=str(path), error=ArtefactError), read_tensors(weights))


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
        content = read_json(folder / _MANIFEST, what="manifest", error=ArtefactError)
        _check_format(folder / _MANIFEST, content, newer=True)
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
    content = read_json(path, what="manifest", error=ArtefactError)
    _check_format(path, content)
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise ArtefactError(f"{path}: {first_problem(error)}.") from error
    _check_names(path, manifest)
    return manifest


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
    if not are_output_names([spec.name for spec in manifest.outputs]):
        raise ArtefactError(f"{path} names outputs that are no `task` or `task.part`, or names one twice.")
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
    write_atomically(folder / _MANIFEST, _manifest_text(manifest), error=ArtefactError)


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


def _manifest_text(manifest: Manifest) -> bytes:
    return (manifest.model_dump_json(indent=2) + "\n").encode()


def _is_empty(folder: Path) -> bool:
    """Returns whether a path is a folder without files."""
    return folder.is_dir() and not any(folder.iterdir())
