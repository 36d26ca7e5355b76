"""Operators on tensors -> ONNX, by torch's own table of operators, without its way around through torch.export.

Torch's exporter traces a network with symbolic sizes, decomposes it, looks for implicit conversions by running it, and
then translates operator by operator. Only the last step is needed for a network that is known for any batch already,
that holds nothing to decompose, and whose operands have one dtype each.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import TensorMetadata

from gate2static.runtimes.optional import require
from gate2static.static.aten import ANY_BATCH
from gate2static.static.capture import recorded_graph, recorded_graph_at_sizes

_aten = torch.ops.aten
DEFAULT_OPSET = 20
"""The opset that torch's exporter writes."""


class UntranslatedError(Exception):
    """The network holds something that torch's exporter prepares before it translates."""


def translate(
    network: nn.Module,
    examples: tuple[Tensor, ...],
    *,
    batch: str,
    opset: int | None,
    free: Sequence[Mapping[int, str]] = (),
    other_examples: Sequence[tuple[Tensor, ...]] = (),
) -> Any:
    """Translates a network.

    Args:
        network: Returns a tuple of tensors; in eval mode.
        examples: Its inputs, with a batch of at least 2.
        batch: The name of the batch dimension.
        opset: None takes torch's own.
        free: Dimension -> name of the sizes that are free, batch included, per input; empty where the batch alone is.
        other_examples: Inputs of other sizes, where sizes are free.

    Returns:
        An `onnx_ir.Model`.

    Raises:
        UntranslatedError: An operator would have to be decomposed, or converts its operands.
        Exception: Anything that recording or translating raises.
    """
    if other_examples:
        sizes = (examples, *other_examples)
        graph, tensors = recorded_graph_at_sizes([network] * len(sizes), sizes)
        inputs = [node for node in graph.find_nodes(op="placeholder") if node.name not in tensors]
        for node, names in zip(inputs, free, strict=True):
            node.meta["free_sizes"] = names
    else:
        graph, tensors = recorded_graph(network, examples)
    graph.eliminate_dead_code()
    operators = {node.target for node in graph.nodes if node.op == "call_function"}
    registry = _registry(operators, opset or DEFAULT_OPSET)
    for node in graph.nodes:
        if node.op == "call_function":
            _check(node, registry)
        node.meta["val"] = _looks(node, batch)
    return _model(graph, tensors, registry, opset or DEFAULT_OPSET)


def _registry(operators: Iterable[Any], opset: int) -> Any:
    """Torch's table of how operators are written in ONNX, with these operators only: reading all takes seconds."""
    registration = require("torch.onnx._internal.exporter._registration")
    registry = registration.ONNXRegistry()
    registry._opset_version = opset
    for meta in require("torch.onnx._internal.exporter._torchlib._torchlib_registry").get_torchlib_ops():
        registry._register(meta.fx_target, meta)
    require("onnxscript.function_libs.torch_lib.ops")  # fills the table
    table = require("onnxscript.function_libs.torch_lib.registration").default_registry
    for operator in operators:
        is_overload = isinstance(operator, torch._ops.OpOverload)
        name = operator.name() if is_overload else f"_operator::{operator.__name__}"
        found = table[name] if name in table else SimpleNamespace(overloads=[], complex=[])
        for is_complex, functions in ((False, found.overloads), (True, found.complex)):
            for function in functions:
                meta = registration.OnnxDecompMeta(
                    onnx_function=function, fx_target=operator, signature=None, is_complex=is_complex
                )
                registry._register(operator, meta)
    registry._cleanup_registry_based_on_opset_version()
    return registry


@cache
def _promotions() -> Any:
    """Torch's table of operators that convert operands to one dtype."""
    return require("torch.onnx._internal.fx.passes.type_promotion").TypePromotionTable()


def _check(node: fx.Node, registry: Any) -> None:
    target: Any = node.target
    if not registry.is_registered(target) or is_always_decomposed(target):
        raise UntranslatedError(f"{target} has to be decomposed")
    if not isinstance(target, torch._ops.OpOverload) or _promotions().get_rule(target.overloadpacket) is None:
        return
    dtypes = {_dtype(operand) for operand in (node, *node.all_input_nodes)} - {None}
    if len(dtypes) > 1 or not all(dtype.is_floating_point for dtype in dtypes):  # type: ignore[union-attr]
        raise UntranslatedError(f"{target} converts its operands")


def _dtype(node: fx.Node) -> torch.dtype | None:
    described = node.meta.get("tensor_meta")
    return described.dtype if isinstance(described, TensorMetadata) else None


def is_always_decomposed(operator: Any) -> bool:
    """Returns whether torch decomposes an operator whether or not it is asked to: composites that may return views.

    Two views that its exporter knows as they are can stay.
    """
    return (
        isinstance(operator, torch._ops.OpOverload)
        and operator.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
        and (operator.is_view or torch.Tag.maybe_aliasing_or_mutating in operator.tags)
        and operator not in (_aten.reshape.default, _aten.narrow.default)
    )


class _Looks(Tensor):
    """A tensor that only says what a value looks like, with formulas for sizes that follow the batch."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    shape: Any = ()


def _looks(node: fx.Node, batch: str) -> Any:
    """What torch's translation asks a node for: the value, here without content."""

    def described(value: Any) -> Any:
        if not isinstance(value, TensorMetadata):
            return value
        looks = torch.empty(0, dtype=value.dtype).as_subclass(_Looks)
        names = node.meta.get("free_sizes", {})
        looks.shape = tuple(
            SimpleNamespace(node=names[dim]) if dim in names else _size(size, batch)
            for dim, size in enumerate(value.shape)
        )
        return looks

    known = node.meta.get("tensor_meta", 0)  # what is no tensor is a size
    return described(known) if isinstance(known, TensorMetadata | int) else tuple(map(described, known))


def _size(size: int, batch: str) -> Any:
    multiple, rest = divmod(size, ANY_BATCH)
    if rest or not multiple:
        return size
    return SimpleNamespace(node=batch if multiple == 1 else f"{multiple}*{batch}")


def _model(graph: fx.Graph, tensors: Mapping[str, Tensor], registry: Any, opset: int) -> Any:
    """The graph as an `onnx_ir.Model` whose initialisers are the tensors."""
    ir = require("onnx_ir")
    exporter = require("torch.onnx._internal.exporter._core")
    passes = require("torch.onnx._internal.exporter._ir_passes")
    model = ir.Model(ir.Graph([], [], nodes=[], name="main_graph"), ir_version=10)
    exporter._translate_fx_graph(
        graph, model, graph_like=model.graph, owned_graphs={}, lower="at_conversion", registry=registry
    )
    placeholders = graph.find_nodes(op="placeholder")
    values = dict(zip(placeholders, model.graph.inputs, strict=True))
    model.graph.inputs.clear()
    for node, value in values.items():
        if node.name not in tensors:
            model.graph.inputs.append(value)
        elif node.users:
            value.name = str(node.target)
            value.const_value = exporter.TorchTensor(tensors[node.name].detach(), name=value.name)
            model.graph.initializers[value.name] = value
    passes.add_opset_imports(model)
    return require("onnxscript.version_converter").convert_version(model, opset, fallback=True) or model
