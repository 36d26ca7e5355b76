"""StaticModel -> ONNX: traced by torch.export, stripped of machine paths, checked, run, compared, then written."""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

from gate2static.arguments import described, require_count, require_path
from gate2static.errors import ExportError
from gate2static.export.equality import (
    Precision,
    check_equal,
    float32_inputs,
    onnx_errors,
    onnx_tolerances,
    reference_outputs,
)
from gate2static.export.onnx_ends import ends_of, with_ends
from gate2static.export.onnx_tracing import opset_of, root_cause, trace_onnx
from gate2static.files import sha256_of, write_atomically
from gate2static.runtimes.optional import require

if TYPE_CHECKING:
    from gate2static.static import StaticModel

_OLDEST_OPSET = 12
"""Below 18, onnx's version converter rewrites what it can; what comes out is run and compared like any other file."""
_PROTOBUF_LIMIT_BYTES = 2**31


@dataclass(frozen=True, kw_only=True)
class OnnxReport:
    """What was written, and how far it is from torch.

    Attributes:
        batch_size: The only batch size that the file takes; None for any.
        errors: task -> max |ONNX − torch| / max |torch|, ONNX Runtime on the CPU.
        tolerances: what `errors` had to stay below.
    """

    path: Path
    size_bytes: int
    sha256: str
    digest: str
    opset: int
    precision: Precision
    batch_size: int | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    errors: Mapping[str, float]
    tolerances: Mapping[str, float]


def export_onnx(
    static: "StaticModel",
    path: str | Path,
    *,
    opset: int | None = None,
    fold_norms: bool = True,
    precision: Precision = "fp32",
    batch_size: int | None = None,
    preprocess: bool = False,
    argmax: bool = False,
) -> OnnxReport:
    """Writes a static network as one ONNX file, with a dynamic batch dimension unless a batch size is given.

    Inputs and outputs are named as in the manifest. The metadata properties (`gate2static.*`) hold the
    tasks, MACs, precision, versions and the static model's digest. The file appears only after ONNX's checker passed
    it and ONNX Runtime computed, at two batch sizes or at the fixed one, what torch computes.

    Args:
        static: the network; it is not changed.
        path: where the file goes; a file already there is replaced at the very end.
        opset: None takes the exporter's own.
        fold_norms: fold norms into convolutions first, as deployment wants.
        precision: "fp16" stores weights and computes in float16; inputs and outputs stay float32.
        batch_size: The only batch size that the file takes; None for any.
        preprocess: Whether the file takes pictures as bytes (N, H, W, C) and normalises them itself.
        argmax: Whether outputs that are logits of classes become the index of a class.

    Raises:
        ExportError: An argument the format cannot hold, a network the exporter cannot trace, or one that does not say
            what its pictures or classes are where that is asked for.
        VerificationError: the ONNX model does not compute what the static network computes.
    """
    from gate2static.static.model import static_model  # a type above; loading one needs more than this stage

    static = static_model(static, error=ExportError)
    path = require_path(path, name="the ONNX file's path", error=ExportError)
    _check_arguments(static, opset, precision, batch_size)
    ends = ends_of(static, preprocess=preprocess, argmax=argmax)
    reference = deepcopy(static).cpu().float().eval()
    network = reference.deployed() if fold_norms else deepcopy(reference)
    try:
        proto = trace_onnx(network, opset=opset, precision=precision, batch_size=batch_size)
    except ExportError:
        # A network that works at one batch size only is the reason to give.
        reference_outputs(reference, float32_inputs(reference, 3))
        raise
    _add_metadata(proto, static, precision)
    data = _checked_bytes(proto)
    errors = onnx_errors(reference, data, batch_sizes=(1, 3) if batch_size is None else (batch_size,))
    tolerances = onnx_tolerances(reference, precision, errors)
    check_equal(errors, tolerances)
    data = with_ends(data, static, ends)
    write_atomically(path, data)
    return OnnxReport(
        path=path,
        size_bytes=len(data),
        sha256=sha256_of(data),
        digest=static.manifest.digest,
        opset=opset_of(proto),
        precision=precision,
        batch_size=batch_size,
        inputs=tuple(spec.name for spec in static.manifest.inputs),
        outputs=static.output_names,
        errors=errors,
        tolerances=tolerances,
    )


def _check_arguments(static: "StaticModel", opset: int | None, precision: str, batch_size: int | None) -> None:
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise ExportError(f"batch_size is {batch_size!r}; allowed is a positive whole number, or None for any batch.")
    if precision not in get_args(Precision):
        raise ExportError(
            f"unknown precision {described(precision)}; allowed: {', '.join(get_args(Precision))} (int8 is made from "
            "an fp32 ONNX file by quantize_onnx)"
        )
    newest = require("onnx").defs.onnx_opset_version()
    if opset is not None:
        require_count(opset, name="opset", least=_OLDEST_OPSET, most=newest, error=ExportError)
    names = {spec.name for spec in static.manifest.inputs}
    if clash := sorted(names & set(static.output_names)):
        raise ExportError(
            f"{clash} name both an input and an output, and ONNX keeps both in one name space; prune again, which "
            "names the input `…_input`"
        )
    size_bytes = sum(t.numel() * t.element_size() for t in (*static.parameters(), *static.buffers()))
    if size_bytes >= _PROTOBUF_LIMIT_BYTES:
        raise ExportError(
            f"the network holds {size_bytes / 2**30:.2f} GiB of weights, and one ONNX file holds at most 2 GiB; "
            "prune further (lower sparsity targets)"
        )


def _add_metadata(proto: Any, static: "StaticModel", precision: Precision) -> None:
    proto.producer_name, proto.producer_version = "gate2static", version("gate2static")
    properties = {
        "gate2static.tasks": json.dumps(list(static.tasks)),
        "gate2static.digest": static.manifest.digest,
        "gate2static.macs": json.dumps(dict(static.manifest.macs)),
        "gate2static.precision": precision,
        "gate2static.version": version("gate2static"),
        "gate2static.exporter": f"torch {torch.__version__}",
    }
    if any(spec.dynamic for spec in static.manifest.inputs):
        # Benchmarks time networks of any size at that of the example inputs.
        shapes = {spec.name: list(spec.shape) for spec in static.manifest.inputs}
        properties["gate2static.shapes"] = json.dumps(shapes)
    require("onnx").helper.set_model_props(proto, properties)


def _checked_bytes(proto: Any) -> bytes:
    onnx = require("onnx")
    checker = onnx.checker
    try:
        checker.check_model(proto, full_check=True)
        data: bytes = proto.SerializeToString(deterministic=True)
    except (checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as failure:
        raise ExportError(f"ONNX's checker refuses the exported model: {root_cause(failure)}") from failure
    return data
