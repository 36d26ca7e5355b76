"""Operators on tensors -> ONNX, by torch's own table of operators, without its way around through torch.export.

Torch's exporter traces a network with symbolic sizes, decomposes it, looks for implicit conversions by running it, and
then translates operator by operator. Here the network is known for any batch already, so what is left is

1. to write what the table does not have in operators that it has (`onnx_forms`, else torch's own decompositions),
2. to write out where torch would convert operands to one dtype,
3. to look every operator up.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.fx.passes.shape_prop import TensorMetadata

from gate2static.errors import ExportError
from gate2static.export.onnx_forms import form_of
from gate2static.runtimes.optional import require
from gate2static.static.aten import ANY_BATCH
from gate2static.static.capturing.capture import recorded_graph, recorded_graph_at_sizes

_aten = torch.ops.aten
DEFAULT_OPSET = 20
"""The opset that a file has unless another one is asked for."""
OLDEST_TRANSLATED = 18
"""The opset that the oldest entries of torch's table write."""
_TENSOR = re.compile(r"(parameter|buffer)_\d+$")
"""The end of an initialiser's name, which a static network's tensor has."""
_OF_WEIGHTS = ("Transpose", "Cast", "Reshape", "Identity")
"""What may stand between a weight and its layer."""
_PASSES = 8
"""How often what stands for an operator may itself need a form; none of torch's goes deeper than three."""


def translate(
    network: nn.Module,
    examples: tuple[Tensor, ...],
    *,
    batch: str,
    opset: int | None,
    batch_size: int | None = None,
    free: Sequence[Mapping[int, str]] = (),
    other_examples: Sequence[tuple[Tensor, ...]] = (),
    labels: Mapping[str, str] = MappingProxyType({}),
) -> Any:
    """Translates a network.

    Args:
        network: Returns a tuple of tensors; in eval mode.
        examples: Its inputs, with a batch of at least 2.
        batch: The name of the batch dimension.
        opset: The opset; None takes `DEFAULT_OPSET`. One that is older than torch's table gives the table's oldest.
        batch_size: The only batch size that the model takes; None for any.
        free: Dimension -> name of the sizes that are free, batch included, per input; empty where the batch alone is.
        other_examples: Inputs of other sizes, where sizes are free.
        labels: Name of a layer's weight -> the name for the layer's node.

    Returns:
        An `onnx_ir.Model`.

    Raises:
        ExportError: An operator has no form in ONNX.
        Exception: Anything that recording or translating raises.
    """
    wanted = opset or DEFAULT_OPSET
    sizes = (examples, *other_examples)
    graph, tensors, registry = _in_known_operators(network, sizes, max(wanted, OLDEST_TRANSLATED))
    if other_examples:
        inputs = [node for node in graph.find_nodes(op="placeholder") if node.name not in tensors]
        for node, names in zip(inputs, free, strict=True):
            node.meta["free_sizes"] = names
    _write_conversions(graph)
    for node in graph.nodes:
        node.meta["val"] = _looks(node, batch, batch_size)
    model = _model(graph, tensors, registry)
    _name_layers(model, labels)
    if model.opset_imports[""] < wanted:
        require("onnxscript.version_converter").convert_version(model, wanted, fallback=True)
    return model


def _in_known_operators(
    network: nn.Module, sizes: Sequence[tuple[Tensor, ...]], opset: int
) -> tuple[fx.Graph, dict[str, Tensor], Any]:
    """Records a network, again and again, until it holds only operators that torch's table has.

    Args:
        network: The network.
        sizes: Its inputs, of several sizes where sizes are free.
        opset: The opset of the table.

    Returns:
        The graph, the tensors of its placeholders, and the table.

    Raises:
        ExportError: An operator has no form.
    """
    for _ in range(_PASSES):
        if len(sizes) > 1:
            graph, tensors = recorded_graph_at_sizes([network] * len(sizes), sizes)
        else:
            graph, tensors = recorded_graph(network, sizes[0])
        graph.eliminate_dead_code()
        registry = _registry({node.target for node in graph.nodes if node.op == "call_function"}, opset)
        unknown = [node for node in graph.nodes if node.op == "call_function" and _is_unknown(node.target, registry)]
        if not unknown:
            return graph, tensors, registry
        name = str(unknown[0].target)
        for node in unknown:
            node.target = form_of(node) or _torchs_form(node.target)
        network = _as_module(graph, tensors)
    raise ExportError(f"the operator {name} has no form in ONNX. {_WITHOUT_ONNX}")


def _as_module(graph: fx.Graph, tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    """Returns a graph as a module that owns the tensors of its placeholders."""
    root = nn.Module()
    for node in graph.find_nodes(op="placeholder"):
        if node.name in tensors:
            root.register_buffer(node.name, tensors[node.name].detach())
            with graph.inserting_before(node):
                node.replace_all_uses_with(graph.get_attr(node.name))
            graph.erase_node(node)
    return fx.GraphModule(root, graph)


_WITHOUT_ONNX = "Replace the operator; `static.save`, `export_pt2` and the torch runners work without ONNX."


def _is_unknown(operator: Any, registry: Any) -> bool:
    return not registry.is_registered(operator) or is_always_decomposed(operator)


def _torchs_form(operator: Any) -> Callable[..., Any]:
    """Returns how torch itself writes an operator in simpler ones.

    Raises:
        ExportError: It does not.
    """
    # Torch's table has composites too, with entries that call them again.
    if isinstance(operator, torch._ops.OpOverload) and operator.has_kernel_for_dispatch_key(
        torch._C.DispatchKey.CompositeImplicitAutograd
    ):

        def decomposed(*args: Any, **kwargs: Any) -> Any:
            # Where a mode watches functions, torch would call the operator itself again.
            with torch._C.DisableTorchFunction():
                return operator.decompose(*args, **kwargs)

        return decomposed
    table = _decompositions()
    if operator in table:
        # Some of them are partial functions, which cannot stand in a graph.
        return lambda *args, **kwargs: table[operator](*args, **kwargs)
    raise ExportError(f"the operator {operator} has no form in ONNX. {_WITHOUT_ONNX}")


@cache
def _decompositions() -> Mapping[Any, Callable[..., Any]]:
    """Torch's table of operators in simpler ones."""
    table: Mapping[Any, Callable[..., Any]] = torch.export.default_decompositions()
    return table


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
        translations = table[name] if name in table else SimpleNamespace(overloads=[], complex=[])
        for is_complex, functions in ((False, translations.overloads), (True, translations.complex)):
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


def _write_conversions(graph: fx.Graph) -> None:
    """Writes casts where an operator would convert its operands to one dtype, which ONNX does not."""
    for node in list(graph.nodes):
        target = node.target
        rule = _promotions().get_rule(target.overloadpacket) if isinstance(target, torch._ops.OpOverload) else None
        dtypes = {_dtype(operand) for operand in (node, *node.all_input_nodes)} - {None}
        is_floating = all(dtype is not None and dtype.is_floating_point for dtype in dtypes)
        if rule is None or (len(dtypes) == 1 and is_floating):
            continue
        args, kwargs = map_aggregate((node.args, dict(node.kwargs)), _without_content)
        wanted = rule.preview_type_promotion(tuple(args), dict(kwargs))
        with graph.inserting_before(node):
            node.args = tuple(
                _converted(graph, argument, wanted.args_dtypes.get(i)) for i, argument in enumerate(node.args)
            )
            node.kwargs = {
                name: _converted(graph, argument, wanted.kwargs_dtypes.get(name))
                for name, argument in node.kwargs.items()
            }


def _converted(graph: fx.Graph, argument: Any, dtype: torch.dtype | None) -> Any:
    """Writes a cast of an operand, or of all in a list, where it has another dtype."""
    if isinstance(argument, list | tuple):
        return type(argument)(_converted(graph, element, dtype) for element in argument)
    if dtype is None or not isinstance(argument, fx.Node) or _dtype(argument) in (None, dtype):
        return argument
    cast = graph.call_function(_aten._to_copy.default, (argument,), {"dtype": dtype})
    cast.meta["tensor_meta"] = argument.meta["tensor_meta"]._replace(dtype=dtype)
    return cast


def _without_content(value: Any) -> Any:
    """Returns a tensor without content for a node that is one; any other value as it is."""
    described = value.meta.get("tensor_meta") if isinstance(value, fx.Node) else None
    if isinstance(described, TensorMetadata):
        return torch.empty_strided(described.shape, described.stride, dtype=described.dtype, device="meta")
    return value


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

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # typed as a method
    shape: Any = ()


def _looks(node: fx.Node, batch: str, batch_size: int | None) -> Any:
    """What torch's translation asks a node for: the value, here without content."""

    def described(value: Any, names: Mapping[int, str]) -> Any:
        if not isinstance(value, TensorMetadata):
            return value
        looks = torch.empty(0, dtype=value.dtype).as_subclass(_Looks)
        looks.shape = tuple(
            SimpleNamespace(node=names[dim]) if dim in names and (dim or batch_size is None) else size
            for dim, size in enumerate(_size(size, batch, batch_size) for size in value.shape)
        )
        return looks

    known = node.meta.get("tensor_meta", 0)  # what is no tensor is a size
    if isinstance(known, TensorMetadata | int):
        return described(known, node.meta.get("free_sizes", {}))
    # Of several tensors, those that are read say which of their sizes are free; others of that shape have the same.
    read = [user.meta for user in node.users if isinstance(user.meta.get("tensor_meta"), TensorMetadata)]
    free = {meta["tensor_meta"].shape: meta.get("free_sizes", {}) for meta in read}
    return tuple(described(part, free.get(getattr(part, "shape", None), {})) for part in known)


def _size(size: int, batch: str, batch_size: int | None) -> Any:
    multiple, rest = divmod(size, ANY_BATCH)
    if rest or not multiple:
        return size
    if batch_size is not None:
        return multiple * batch_size
    return SimpleNamespace(node=batch if multiple == 1 else f"{multiple}*{batch}")


def _name_layers(model: Any, labels: Mapping[str, str]) -> None:
    """Names the nodes of layers for their labels; further nodes of one label are numbered, `…#2`."""
    taken: Counter[str] = Counter()
    for name, value in model.graph.initializers.items():
        match = _TENSOR.search(name)
        label = labels.get(match[0]) if match else None
        if label is None:
            continue
        for node, _ in value.uses():
            # A linear layer's weight is transposed first.
            while node.op_type in _OF_WEIGHTS and len(node.outputs[0].uses()) == 1:
                ((node, _),) = node.outputs[0].uses()
            taken[label] += 1
            node.name = label if taken[label] == 1 else f"{label}#{taken[label]}"


def _model(graph: fx.Graph, tensors: Mapping[str, Tensor], registry: Any) -> Any:
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
            tensor = tensors[node.name].detach()
            # Torch's translation has complex numbers as pairs.
            pairs = torch.view_as_real(tensor).contiguous() if tensor.is_complex() else tensor
            value.const_value = exporter.TorchTensor(pairs, name=value.name)
            model.graph.initializers[value.name] = value
    passes.add_opset_imports(model)
    return model
