"""StaticModel -> `onnx.ModelProto` through torch.export, without the exporter's chatter and this machine's paths."""

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.errors import ExportError
from gate2static.export.aten_to_onnx import is_always_decomposed, translate
from gate2static.export.equality import Precision, as_float32, float32_inputs, runs
from gate2static.runtimes.optional import require
from gate2static.static.draws import other_sizes

if TYPE_CHECKING:
    from gate2static.static import StaticModel

BATCH = "batch"
_IMAGE = ("channels", "height", "width")
_aten = torch.ops.aten


def trace_onnx(network: "StaticModel", *, opset: int | None, precision: Precision) -> Any:
    """The ONNX form of a network, inputs and outputs named as in its manifest, dynamic batch dimension.

    Args:
        network: on the CPU; changed in place, so pass a copy.
        opset: None takes the exporter's own.
        precision: what it computes in; inputs and outputs are float32 either way.

    Raises:
        ExportError: the network cannot be traced, or an operator has no ONNX form.
    """
    _write_out(network)
    form = _DeploymentForm(network, network.output_names, precision).eval()
    inputs = float32_inputs(network, 2)
    names = [spec.name for spec in network.manifest.inputs]
    free = free_sizes(network)
    with quiet():
        try:
            others = _inputs_of_other_sizes(network)
            model = translate(form, inputs, batch=BATCH, opset=opset, free=free, other_examples=others)
        except Exception:  # noqa: BLE001 - what it cannot do, torch's exporter may, or says why not
            model = _exported_model(form, inputs, free, opset)
        _simplify(model)
    for values, wanted in ((model.graph.inputs, names), (model.graph.outputs, network.output_names)):
        for value, name in zip(values, wanted, strict=True):
            value.name = name
    return require("onnx_ir").to_proto(model)


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


def _exported_model(
    form: nn.Module, inputs: tuple[Tensor, ...], free: tuple[dict[int, str], ...], opset: int | None
) -> Any:
    """The ONNX form of a network by torch's exporter, which takes ten times as long as `translate`."""
    try:
        program = torch.onnx.export(
            _exported(form, inputs, free),
            dynamo=True,
            optimize=False,  # `_simplify` instead
            verbose=False,
            dynamic_shapes=(free,),  # names the dimensions
            opset_version=opset,
        )
    except Exception as failure:  # tracing runs arbitrary operators
        raise ExportError(
            f"torch's ONNX exporter cannot export this network: {root_cause(failure)}. Replace the operator that it "
            "names; `static.save` and the torch runner work without ONNX."
        ) from failure
    assert program is not None
    return program.model


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


def _exported(
    network: nn.Module, inputs: tuple[Tensor, ...], free: tuple[dict[int, str], ...]
) -> torch.export.ExportedProgram:
    """The program of a network, for `inputs` of a batch of 2: torch.export treats a dimension of 1 as fixed.

    A network that works at one batch size only is traced for that one: what checks the file says so in plain words.
    """
    automatic = tuple(dict.fromkeys(names, torch.export.Dim.AUTO) for names in free)
    program = torch.export.export(
        network,
        inputs,
        dynamic_shapes=(automatic,),
        strict=False,
        # That two sizes are equal, as where features of an image are put together, is no reason to fix one.
        prefer_deferred_runtime_asserts_over_guards=any(len(names) > 1 for names in free),
    )
    return _DecomposedOnDemand(
        root=program.graph_module,
        graph=program.graph,
        graph_signature=program.graph_signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        constants=program.constants,
        verifiers=program.verifiers,
    )


class _DecomposedOnDemand(torch.export.ExportedProgram):
    """Is decomposed only where it holds what the exporter decomposes: tracing it again takes longer than all else.

    Static networks have no graphs within graphs, where there could be more to decompose.
    """

    def run_decompositions(self, decomp_table: dict[Any, Any] | None = None, **options: Any) -> Any:
        table = torch.export.default_decompositions() if decomp_table is None else decomp_table
        if any(node.target in table or is_always_decomposed(node.target) for node in self.graph.nodes):
            return super().run_decompositions(table, **options)
        return self


def _write_out(network: "StaticModel") -> None:
    """Replace operators that the exporter decomposes, computes the shapes of at run time, or takes in four dimensions.

    The others are left to it.
    """
    for node in network.network.graph.nodes:
        node.target = _WRITTEN_OUT.get(node.target, node.target)
    network.network.recompile()


def _adaptive_average(x: Tensor, output_size: Sequence[int]) -> Tensor:
    """Pool (…, height, width)."""
    height, width = output_size
    return x.mean((-2, -1), keepdim=True) if height == width == 1 else F.adaptive_avg_pool2d(x, (height, width))


def _flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    if not x.ndim:
        return x.reshape(1)
    start, end = start_dim % x.ndim, end_dim % x.ndim
    return x.reshape(*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :])


def _unflatten(x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    dim %= x.ndim
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


def _movedim(x: Tensor, source: int, destination: int) -> Tensor:
    if not x.ndim:
        return x
    order = list(range(x.ndim))
    order.insert(destination % x.ndim, order.pop(source))
    return x.permute(order)


def _cast(x: Tensor, dtype: torch.dtype, *_: Any, **__: Any) -> Tensor:
    """Always a copy: `Tensor.to`, which may be none, is a composite."""
    copied: Tensor = _aten._to_copy.default(x, dtype=dtype)
    return copied


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


_WRITTEN_OUT = {
    _aten.adaptive_avg_pool2d.default: _adaptive_average,
    _aten.flatten.using_ints: _flatten,
    _aten.movedim.int: _movedim,
    _aten.unflatten.int: _unflatten,
    _aten.to.dtype: _cast,
    _aten.scaled_dot_product_attention.default: _attention,
}


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
        outputs = self.network.outputs(*(_cast(x, torch.half) if x.is_floating_point() else x for x in inputs))
        return tuple(_cast(outputs[name], torch.float) for name in self.names)
