"""`model.json`: what an export folder holds and what it takes and gives, for programs of any language."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gate2static.errors import ExportError, Gate2StaticError
from gate2static.export.onnx_ends import input_specs, output_specs
from gate2static.export.package.trtexec import PRECISIONS, trtexec_line
from gate2static.files import is_file, read_bytes, write_atomically
from gate2static.static import StaticModel, TensorSpec
from gate2static.static.meaning import Ends
from gate2static.strict_json import read_json

FILE = "model.json"
_NETWORK_ALONE = Ends()
_FORMAT = {"format": "gate2static.export", "version": 1}
Entry = dict[str, Any]


def description(
    static: StaticModel,
    files: Sequence[Entry],
    *,
    ends: Ends = _NETWORK_ALONE,
    batch: tuple[int, int, int] = (1, 1, 8),
    latencies: Sequence[Mapping[str, Any]] = (),
) -> Entry:
    """Returns the content of `model.json`.

    Args:
        static: The network that was exported.
        files: One entry per exported file.
        ends: What the ONNX files do besides the network.
        batch: The smallest, the usual and the largest batch size of an engine.
        latencies: Measured latencies, one entry per network, backend and machine.
    """
    manifest = static.manifest
    onnx = [file for file in files if file["file"].endswith(".onnx")]
    return {
        **_FORMAT,
        "digest": manifest.digest,
        "tasks": list(manifest.tasks),
        "inputs": [_input(static, spec, ends) for spec in input_specs(manifest.inputs, ends)],
        "outputs": [_output(static, spec, ends) for spec in output_specs(manifest.outputs, ends)],
        "macs": manifest.macs.static,
        "parameters": manifest.parameters.static,
        "files": list(files),
        "trtexec": {
            file["file"]: trtexec_line(
                input_specs(manifest.inputs, ends),
                file["file"],
                batch=None if file["batch_size"] else batch,
                precision=file["precision"],
            )
            for file in onnx
        },
        "latencies": [dict(latency) for latency in latencies],
        "budget": manifest.budget,
        "versions": manifest.versions,
    }


def is_export(folder: Path) -> bool:
    """Returns whether a folder has a `model.json` of an export."""
    try:
        content = read_json(folder / FILE, what="description", error=ExportError)
    except ExportError:
        return False
    return isinstance(content, dict) and content.get("format") == _FORMAT["format"]


def kept_files(folder: Path, content: Entry) -> list[Entry]:
    """Returns the entries of files that an earlier export of the same network left in a folder, for the same numbers.

    Args:
        folder: The export folder, which need not be there.
        content: The new content of `model.json`, of the files that have been written anew.
    """
    if not is_file(folder / FILE):
        return []
    try:
        old = read_json(folder / FILE, what="description", error=ExportError)
        if any(json.dumps(old[key]) != json.dumps(content[key]) for key in ("digest", "inputs", "outputs")):
            return []
        written = [entry["file"] for entry in content["files"]]
        return [entry for entry in old["files"] if entry["file"] not in written and _is_there(folder, entry)]
    except (Gate2StaticError, OSError, KeyError, TypeError, ValueError):  # somebody else's file of this name
        return []


def _is_there(folder: Path, entry: Entry) -> bool:
    """Returns whether an entry of an earlier `model.json` describes a file that lies beside it."""
    name = entry["file"]
    if name != Path(name).name or entry["precision"] not in PRECISIONS:
        return False
    if name.endswith(".onnx") and not (entry["batch_size"] is None or isinstance(entry["batch_size"], int)):
        return False
    data = read_bytes(folder / name, what="exported file", error=ExportError)
    return bool(hashlib.sha256(data).hexdigest() == entry["sha256"])


def write_description(folder: Path, content: Entry) -> None:
    """Writes `model.json`.

    Raises:
        ExportError: The file cannot be written.
    """
    write_atomically(folder / FILE, (json.dumps(content, indent=2) + "\n").encode())


def _input(static: StaticModel, spec: TensorSpec, ends: Ends) -> Entry:
    meaning = static.manifest.meaning
    picture = None if meaning is None else meaning.inputs.get(spec.name)
    entry = _tensor(spec)
    if spec.name in ends.pictures:
        byte = {"formula": "byte", "colours": ends.pictures[spec.name].colours}
        return {**entry, "layout": "NHWC", "value_range": spec.values, "picture": byte}
    if picture is None:
        layout = "NCHW" if len(spec.shape) == 3 else None
        return {**entry, "layout": layout, "value_range": spec.values, "picture": None}
    picture_entry = {"formula": "(byte / 255 - mean) / std", **picture.model_dump(mode="json")}
    return {**entry, "layout": "NCHW", "value_range": list(picture.value_range), "picture": picture_entry}


def _output(static: StaticModel, spec: TensorSpec, ends: Ends) -> Entry:
    meaning = static.manifest.meaning
    prediction = None if meaning is None else meaning.outputs.get(spec.name)
    entry = {**_tensor(spec), "task": spec.name.partition(".")[0]}
    if prediction is None:
        unknown: Entry = {"kind": None, "activation": None, "unit": None, "classes": []}
        return {**entry, **unknown, "is_logits": None, "is_class": False}
    is_class = spec.name in ends.classes
    if is_class:
        prediction = prediction.model_copy(update={"activation": "none"})
    is_logits = prediction.activation in ("softmax", "sigmoid")
    return {**entry, **prediction.model_dump(mode="json"), "is_logits": is_logits, "is_class": is_class}


def _tensor(spec: TensorSpec) -> Entry:
    """Returns what holds for inputs and outputs; ONNX files compute floating-point numbers as float32."""
    dtype = "float32" if spec.dtype in ("float16", "bfloat16", "float64") else spec.dtype
    free = {dim + 1 for dim in spec.dynamic}
    shape = [None if dim == 0 or dim in free else size for dim, size in enumerate((1, *spec.shape))]
    return {"name": spec.name, "dtype": dtype, "shape": shape, "example_shape": [1, *spec.shape]}
