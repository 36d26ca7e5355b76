"""StaticModel -> `onnx.ModelProto`, without the chatter of libraries and this machine's paths."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gate2static.errors import ExportError
from gate2static.export.aten_to_onnx import translate
from gate2static.export.equality import Precision, as_float32, float32_inputs, runs
from gate2static.export.onnx_forms import cast, form_of
from gate2static.runtimes.optional import require
from gate2static.static.draws import other_sizes
from gate2static.static.layer_labels import LABELS

if TYPE_CHECKING:
    from gate2static.static import StaticModel

BATCH = "batch"
_IMAGE = ("channels", "height", "width")
_IR_VERSIONS = {opset: 8 if opset > 14 else 7 for opset in range(12, 19)}
"""Opset -> the version of the format that its readers know."""


def trace_onnx(
    network: "StaticModel", *, opset: int | None, precision: Precision, batch_size: int | None = None
) -> Any:
    """Returns the ONNX form of a network, inputs and outputs named as in its manifest.

    Args:
        network: On the CPU; changed in place, so pass a copy.
        opset: None takes the default.
        precision: What it computes in; inputs and outputs are float32 either way.
        batch_size: The only batch size that the model takes; None for any.

    Raises:
        ExportError: The network cannot be traced, or an operator has no ONNX form.
    """
    form = _DeploymentForm(network, network.output_names, precision).eval()
    names = [spec.name for spec in network.manifest.inputs]
    free = free_sizes(network)
    others = _inputs_of_other_sizes(network)
    _write_out(network)
    try:
        with quiet():
            model = translate(
                form,
                float32_inputs(network, 2),
                batch=BATCH,
                opset=opset,
                batch_size=batch_size,
                free=free,
                other_examples=others,
                labels=network.network.meta.get(LABELS, {}),
            )
            _simplify(model)
    except ExportError:
        raise
    except Exception as failure:  # tables of other libraries, on arbitrary operators
        raise ExportError(
            f"this network cannot be written as ONNX: {root_cause(failure)}. Replace the operator that it names; "
            "`static.save`, `export_pt2` and the torch runners work without ONNX."
        ) from failure
    for values, wanted in ((model.graph.inputs, names), (model.graph.outputs, network.output_names)):
        for value, name in zip(values, wanted, strict=True):
            value.name = name
    proto = require("onnx_ir").to_proto(model)
    return proto if opset is None else _in_opset(proto, opset)


def _inputs_of_other_sizes(network: "StaticModel") -> list[tuple[Tensor, ...]]:
    """Returns inputs of other sizes that a network runs on, where sizes are free."""
    inputs = [as_float32(batch.inputs) for batch in other_sizes(network.manifest.inputs)]
    return [example for example in inputs if runs(network, example)]


def free_sizes(network: "StaticModel") -> tuple[dict[int, str], ...]:
    """Returns dimension -> name of the sizes that are free, batch included, per input."""
    of_images = [
        {dim + 1: f"{spec.name}_{_IMAGE[dim]}" for dim in spec.dynamic} for spec in network.manifest.inputs
    ]
    return tuple({0: BATCH, **names} for names in of_images)


def _in_opset(proto: Any, opset: int) -> Any:
    """Converts a model to an opset, by onnx's own converter."""
    if opset_of(proto) == opset:
        return proto
    onnx = require("onnx")
    try:
        converted = onnx.version_converter.convert_version(proto, opset)
    except Exception as failure:  # the converter has errors of its own for each operator
        raise ExportError(
            f"onnx's version converter cannot write this network in opset {opset}: {root_cause(failure)}. Take a newer "
            "opset, or none for the default."
        ) from failure
    _drop_leftovers(converted)
    # What can be read with an older opset is an older format too.
    converted.ir_version = min(proto.ir_version, _IR_VERSIONS.get(opset, proto.ir_version))
    return converted


def _drop_leftovers(proto: Any) -> None:
    """Removes an attribute that the converter leaves on reductions, which have their axes anyway, below opset 18."""
    for node in proto.graph.node:
        names = [attribute.name for attribute in node.attribute]
        if node.op_type.startswith("Reduce") and "axes" in names and "noop_with_empty_axes" in names:
            del node.attribute[names.index("noop_with_empty_axes")]


def opset_of(proto: Any) -> int:
    """Returns the opset of a model."""
    return next(int(entry.version) for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))


def _simplify(model: Any) -> None:
    """Fold constants and drop what is unused or computed twice, in an onnx_ir.Model.

    The exporter's own optimiser also matches a set of rewrite rules against the whole graph, which takes most of an
    export and after which the runtimes' own optimisers arrive at the same graphs (`benchmarks/speed/onnx_export.py`).
    """
    passes = require("onnx_ir.passes.common")
    passes.InlinePass()(model)
    require("onnxscript.optimizer").fold_constants(model, onnx_shape_inference=True)
    for simplify in (
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),  # tasks may have one value in common
        # The exporter stores stack traces of the source code, with this machine's paths, on every node.
        passes.ClearMetadataAndDocStringPass(),
    ):
        simplify(model)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and log lines of the exporter, which speak to its developers."""
    logger = logging.getLogger("torch.onnx"), logging.getLogger("onnxscript"), logging.getLogger("onnx_ir")
    levels = [entry.level for entry in logger]
    for entry in logger:
        entry.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for entry, level in zip(logger, levels, strict=True):
            entry.setLevel(level)


def root_cause(error: BaseException) -> str:
    """Type and first line of the exception that started a chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _write_out(network: "StaticModel") -> None:
    """Replaces operators that torch's table lacks, has wrong, or takes in four dimensions only.

    What it lacks besides is found while translating; each time that happens the network is recorded again.
    """
    for node in network.network.graph.nodes:
        if node.op == "call_function":
            node.target = form_of(node) or node.target
    network.network.recompile()


class _DeploymentForm(nn.Module):
    """The network with a tuple of outputs in their order, computing in `precision` between float32 ends."""

    def __init__(self, network: "StaticModel", names: tuple[str, ...], precision: Precision) -> None:
        super().__init__()
        self.names, self.half_precision = names, precision == "fp16"
        self.network = network.half() if self.half_precision else network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if not self.half_precision:
            outputs = self.network.outputs(*inputs)
            return tuple(outputs[name] for name in self.names)
        outputs = self.network.outputs(*(cast(x, torch.half) if x.is_floating_point() else x for x in inputs))
        return tuple(cast(outputs[name], torch.float) for name in self.names)
