"""StaticModel -> `onnx.ModelProto` through torch.export, without the exporter's chatter and this machine's paths."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.errors import ExportError
from gate2static.export.equality import Precision, float32_inputs
from gate2static.export.optional import require

if TYPE_CHECKING:
    from gate2static.prune import StaticModel

BATCH = "batch"


def trace_onnx(network: "StaticModel", *, opset: int | None, precision: Precision) -> Any:
    """The ONNX form of a network, inputs named as in its manifest, outputs for its tasks, dynamic batch dimension.

    Args:
        network: on the CPU; changed in place, so pass a copy.
        opset: None takes the exporter's own.
        precision: what it computes in; inputs and outputs are float32 either way.

    Raises:
        ExportError: the network cannot be traced, or an operator has no ONNX form.
    """
    _reshape_attention(network)
    inputs = float32_inputs(network, 2)  # not 1: torch.export treats a dimension of 1 as fixed
    batch = torch.export.Dim(BATCH)
    try:
        with quiet():
            program = torch.onnx.export(
                _DeploymentForm(network, network.tasks, precision).eval(),
                inputs,
                dynamo=True,
                optimize=False,  # `_simplify` instead
                verbose=False,
                input_names=[spec.name for spec in network.manifest.inputs],
                output_names=list(network.tasks),
                dynamic_shapes=(tuple({0: batch} for _ in inputs),),
                opset_version=opset,
            )
    except Exception as failure:  # tracing runs arbitrary operators
        raise ExportError(
            f"torch's ONNX exporter cannot export this network: {root_cause(failure)}. Replace the operator that it "
            "names; `static.save` and the torch runner work without ONNX."
        ) from failure
    assert program is not None
    _simplify(program.model)
    for value, task in zip(program.model.graph.outputs, network.tasks, strict=True):
        value.name = task
    return program.model_proto


def _simplify(model: Any) -> None:
    """Fold constants and drop what is unused or computed twice, in an onnx_ir.Model.

    The exporter's own optimiser also matches a set of rewrite rules against the whole graph, which takes most of an
    export and after which the runtimes' own optimisers arrive at the same graphs (`benchmarks/onnx_export.py`).
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


def _reshape_attention(network: "StaticModel") -> None:
    """ONNX export takes four dimensions; attention over windows has more, with heads in the batch dimension fewer."""
    for node in network.network.graph.nodes:
        if node.target is torch.ops.aten.scaled_dot_product_attention.default:
            node.target = _attention
    network.network.recompile()


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """Scaled dot-product attention (…, tokens, width) with any leading dimensions, made (batch, heads)."""
    leading = query.shape[:-2]
    if len(leading) == 2:
        return F.scaled_dot_product_attention(query, key, value, attn_mask, *args, **kwargs)

    def with_two(x: Tensor) -> Tensor:
        return x.expand(*leading, *x.shape[-2:]).reshape(-1, leading[-1] if len(leading) > 2 else 1, *x.shape[-2:])

    mask = None if attn_mask is None else with_two(attn_mask)
    attended = F.scaled_dot_product_attention(with_two(query), with_two(key), with_two(value), mask, *args, **kwargs)
    return attended.reshape(*leading, *attended.shape[-2:])


class _DeploymentForm(nn.Module):
    """The network with a tuple of outputs in task order, computing in `precision` between float32 ends."""

    def __init__(self, network: nn.Module, tasks: tuple[str, ...], precision: Precision) -> None:
        super().__init__()
        self.tasks, self.half_precision = tasks, precision == "fp16"
        self.network = network.half() if self.half_precision else network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if not self.half_precision:
            outputs = self.network(*inputs)
            return tuple(outputs[task] for task in self.tasks)
        outputs = self.network(*(x.half() if x.is_floating_point() else x for x in inputs))
        return tuple(outputs[task].float() for task in self.tasks)
