"""The program: one graph that says what is computed, for which streams, and where the gates are.

It is the backbone's graph with a gate node after each gated unit, followed by each task's head. Backbone nodes exist
for all T+1 streams, and head nodes for their task alone. Lifting turns the program into the network that trains, and
pruning reads it; nothing else knows the architecture.

Heads are traced for pruning only, since training runs the user's own modules. So a head that torch.fx cannot follow is
no error: it is one opaque call.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils import _pytree as pytree

from gate2static.errors import GateError, TraceError
from gate2static.graphs import copy_structure, quiet
from gate2static.program.annotate import BATCHES, NodeError, NodeInfo, annotate, fake_inputs, info, measure_macs
from gate2static.program.signatures import Signature, layer_signatures, signature_of
from gate2static.program.size_decisions import Shapes, SizeDecisions
from gate2static.program.trace import trace
from gate2static.program.tracer import is_leaf
from gate2static.program.units import Unit as Unit
from gate2static.program.units import gated_unit as gated_unit
from gate2static.program.units import insert_gates
from gate2static.program.value_ranges import ValueRange, value_range


def take_stream(value: Tensor, stream: int) -> Tensor:
    """Marks where a head picks up its task's stream in a program; it is never called.

    Args:
        value: A leaf of the backbone's output.
        stream: The number of the task.
    """
    raise AssertionError(stream)


@dataclass(frozen=True, kw_only=True)
class Program:
    """A traced backbone with its gates, and the traced heads; `build_program` makes it.

    Attributes:
        graph: Placeholders, the backbone with gate nodes, and the heads; the output is a dict from task to node.
            Modules are named relative to a branch in the backbone, and relative to the gated model
            (`heads.<task>.…`) in the heads.
        features: The structure of the backbone's output, with nodes for leaves.
        units: The gated units in data-flow order.
        ranges: The ranges of the example inputs, in the order of the placeholders.
        layers: Name -> signature of the modules that the backbone calls.
        heads: Task -> signature of the head that was traced.
        decisions: What the backbone decided on sizes; None where it decided nothing.
        head_decisions: Task -> what its head decided on the sizes of the features, for heads that decided something.
    """

    graph: fx.Graph
    features: Any
    units: tuple[Unit, ...]
    ranges: tuple[ValueRange | None, ...]
    layers: Mapping[str, Signature]
    heads: Mapping[str, Signature]
    decisions: SizeDecisions | None
    head_decisions: Mapping[str, SizeDecisions]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Program":
        """Returns the program itself: nothing changes it once it is built, so copies of a model share it."""
        return self

    def backbone(self) -> Iterator[fx.Node]:
        """Yields the nodes before the heads."""
        for node in self.graph.nodes:
            if node.target is take_stream or node.op == "output" or len(info(node).streams) == 1:
                return
            yield node


@dataclass(frozen=True)
class _Head:
    """A head that is appended to a program.

    Attributes:
        module: The head, in eval mode.
        task: The name of its task.
        stream: The number of its task.
        outputs: Batch size -> the backbone's output, as fake tensors.
        mode: The mode of the fake tensors.
    """

    module: nn.Module
    task: str
    stream: int
    outputs: Any
    mode: FakeTensorMode

    def __str__(self) -> str:
        return f"the head of task {self.task!r}"


def build_program(
    backbone: nn.Module, heads: Mapping[str, nn.Module], examples: tuple[Any, ...]
) -> tuple[nn.Module, Program]:
    """Traces a backbone and its heads, and inserts the gates.

    Args:
        backbone: The module to gate; it is not changed.
        heads: Task -> head, in eval mode and in the order of the streams.
        examples: The backbone's positional arguments, batch first.

    Returns:
        The traced copy of the backbone, whose modules the program names, and the program.

    Raises:
        TraceError: The backbone cannot be traced, does not run on the examples, or does not return tensors.
        GateError: There is no gated unit, or a head does not run on the backbone's output or does not return a tensor.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    streams = tuple(range(len(heads) + 1))
    root, graph, outputs = _trace_backbone(backbone, examples, mode, streams)
    output = next(iter(graph.find_nodes(op="output")))
    _check_features(output.args[0])
    units = insert_gates(root, graph)
    if not units:
        raise GateError("the backbone has no convolution or linear layer, so there is nothing to gate.")
    program = Program(
        graph=graph,
        # Gates have replaced their units in the output meanwhile.
        features=output.args[0],
        units=units,
        ranges=tuple(value_range(leaf) for leaf in pytree.tree_leaves(examples)),
        layers=layer_signatures(root, graph),
        heads={},
        decisions=output.meta.get("size_decisions"),
        head_decisions={},
    )
    return root, _with_heads(program, heads, outputs, mode)


def retrace_heads(program: Program, heads: Mapping[str, nn.Module]) -> Program:
    """Traces heads in place of those that a program ends with.

    Args:
        program: The program, which is not changed.
        heads: Task -> head, in eval mode and in the order of the streams.

    Returns:
        A program with the same backbone.

    Raises:
        GateError: A head does not run on the backbone's output or does not return a tensor.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    device = next((p.device for head in heads.values() for p in head.parameters()), torch.device("cpu"))

    def outputs(batch: int) -> Any:
        with mode:
            return pytree.tree_map_only(
                fx.Node, lambda n: torch.empty(info(n).at(batch), dtype=info(n).dtype, device=device), program.features
            )

    return _with_heads(program, heads, outputs, mode)


def _with_heads(program: Program, heads: Mapping[str, nn.Module], outputs: Any, mode: FakeTensorMode) -> Program:
    """Copies a program's backbone and appends heads.

    Args:
        program: The program; its graph ends with the output of the backbone, or with other heads.
        heads: Task -> head, in eval mode and in the order of the streams.
        outputs: Batch size -> the backbone's output, as fake tensors.
        mode: The mode of the fake tensors.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in program.backbone():
        copies[node] = graph.node_copy(node, copies.__getitem__)
    features = fx.map_arg(program.features, copies.__getitem__)
    results = {}
    for stream, (task, module) in enumerate(heads.items()):
        results[task] = _append_head(graph, features, _Head(module, task, stream, outputs, mode))
    graph.output(results).meta["info"] = NodeInfo(streams=tuple(range(len(heads) + 1)))
    return replace(
        program,
        graph=graph,
        features=features,
        heads={task: signature_of(module) for task, module in heads.items()},
        head_decisions={task: found for task, node in results.items() if (found := node.meta.get("size_decisions"))},
    )


def program_at(program: Program, root: nn.Module, shapes: Shapes) -> Program:
    """Annotates a program for inputs of other sizes.

    Args:
        program: The program, which is not changed.
        root: The owner of the modules that it names, those of the heads under `heads`.
        shapes: The shapes of the inputs, without the batch.

    Raises:
        NodeError: It does not run on such inputs.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(program.graph, copies))
    marks = {node: node.target for node in graph.nodes if node.target in (gated_unit, take_stream)}
    for mark in marks:
        mark.target = _first
    (output,) = graph.find_nodes(op="output")
    copies[next(iter(program.graph.find_nodes(op="output")))] = output
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    device = next(root.parameters()).device
    placeholders = graph.find_nodes(op="placeholder")
    with mode:
        examples = tuple(
            torch.empty((1, *shape), dtype=info(node).dtype, device=device)
            for node, shape in zip(placeholders, shapes, strict=True)
        )
    annotate(root, graph, fake_inputs(mode, examples), (), "the network")
    for node, copied in copies.items():
        copied.meta["info"] = replace(info(copied), streams=info(node).streams)
    for mark, target in marks.items():
        mark.target = target
    return replace(program, graph=graph, features=fx.map_arg(program.features, copies.__getitem__))


def _first(value: Any, _: Any) -> Any:
    """Stands for the marks of a program while it runs."""
    return value


def _trace_backbone(
    backbone: nn.Module, examples: tuple[Any, ...], mode: FakeTensorMode, streams: tuple[int, ...]
) -> tuple[nn.Module, fx.Graph, Any]:
    """Traces and annotates a backbone, and keeps submodules whole whose traces do not run.

    A trace does not run where its code asks what is a tensor, for example.

    Returns:
        The traced copy, its graph, and a function from a batch size to the output as fake tensors.
    """
    whole: frozenset[str] = frozenset()
    first_error: TraceError | None = None
    while True:
        try:
            root, graph = trace(backbone, examples, "the backbone", whole=whole)
            outputs = annotate(copy_structure(root), graph, fake_inputs(mode, examples), streams, "the backbone")
        except TraceError as error:
            first_error = first_error or error
            module = _module_around(error, whole)
            if module is None:
                raise first_error from error
            whole |= {module}
        else:
            return root, graph, outputs


def _module_around(error: TraceError, whole: frozenset[str]) -> str | None:
    """Returns the innermost submodule around the node that failed, unless it is the node or is already whole."""
    node = error.node if isinstance(error, NodeError) else None
    if node is None:
        return None
    stack = node.meta.get("nn_module_stack", {})
    around = [path for path, _ in stack.values() if path not in (*whole, node.target)]
    return around[-1] if around else None


def _check_features(features: Any) -> None:
    """Refuses what a backbone returns unless it is a plain structure of tensors with the batch first."""
    leaves = pytree.tree_leaves(features)
    named = [leaf.target.__name__ for leaf in leaves if hasattr(getattr(leaf, "target", None), "_fields")]
    if named:
        raise TraceError(
            f"the backbone returns the named tuple {named[0]}; allowed are plain tuples, lists and dicts of tensors."
        )
    if not all(isinstance(leaf, fx.Node) and info(leaf).batch_multiple for leaf in leaves):
        raise TraceError(
            f"the backbone returns {features}; allowed is a tensor, or a tuple, list or dict of tensors with the "
            "batch first."
        )


def _append_head(graph: fx.Graph, features: Any, head: _Head) -> fx.Node:
    """Appends a head to a program's graph.

    Args:
        graph: The graph of the program, changed in place.
        features: The structure of the backbone's output, with nodes for leaves.
        head: The head.

    Returns:
        The node of the head's output.

    Raises:
        GateError: The head does not run on the backbone's output or does not return one tensor.
    """
    _check_single_sample(head)
    taken = pytree.tree_map(lambda leaf: _take(graph, leaf, head.stream), features)
    head_graph = _trace_head(head)
    if head_graph is None:
        return _append_whole_head(graph, taken, head)
    annotate(copy_structure(head.module), head_graph, lambda batch: (head.outputs(batch),), (head.stream,), str(head))
    # The head's graph has a placeholder for each leaf of the features.
    placeholders = head_graph.find_nodes(op="placeholder")
    copies = dict(zip(placeholders, pytree.tree_leaves(taken), strict=True))
    for node in head_graph.nodes:
        if node.op == "output":
            value = node.args[0]
            if isinstance(value, fx.Node) and value in copies and node.meta.get("size_decisions") is not None:
                copies[value].meta["size_decisions"] = node.meta["size_decisions"]
            return _checked(copies.get(value) if isinstance(value, fx.Node) else None, head)
        if node.op == "placeholder":
            continue
        copies[node] = graph.node_copy(node, copies.__getitem__)
        # The gated model has the user's head under this name.
        if node.op in ("call_module", "get_attr"):
            copies[node].target = f"heads.{head.task}.{node.target}"
    raise AssertionError("a graph without output")


def _check_single_sample(head: _Head) -> None:
    """Refuses a head that returns no batch for a single sample, as `squeeze()` without a dimension does.

    Training runs the head itself, and the static network what was traced, so that their shapes would differ.

    Raises:
        GateError: Its output loses a dimension.
    """
    few = BATCHES[0]
    outputs = head.outputs(few)
    one = pytree.tree_map_only(Tensor, lambda x: x[: len(x) // few], outputs)
    try:
        with head.mode, torch.no_grad(), quiet():
            of_one, of_few = copy_structure(head.module)(one), copy_structure(head.module)(outputs)
    except Exception:  # noqa: BLE001  # what does not run is refused where it is traced
        return
    for a, b in zip(pytree.tree_leaves(of_one), pytree.tree_leaves(of_few), strict=False):
        if isinstance(a, Tensor) and isinstance(b, Tensor) and a.dim() < b.dim():
            raise GateError(
                f"{head} returns {tuple(b.shape)} for {few} samples and {tuple(a.shape)} for one: `squeeze()` without "
                "a dimension removes the batch too. Name the dimensions, as in `squeeze(-1)`, or use `flatten(1)`."
            )


def _trace_head(head: _Head) -> fx.Graph | None:
    """Returns the graph of a head, or None for a head that is one layer or that torch.fx cannot follow."""
    try:
        if is_leaf(head.module):
            return None
        _, graph = trace(head.module, (head.outputs(BATCHES[0]),), str(head), trains=False)
    except TraceError:
        return None
    # A tensor that the head makes up while it runs is no part of the user's own module.
    makes_tensors = any("_tensor_constant" in str(node.target) for node in graph.find_nodes(op="get_attr"))
    return None if makes_tensors else graph


def _append_whole_head(graph: fx.Graph, taken: Any, head: _Head) -> fx.Node:
    """Appends a head as one call and returns its node."""
    try:
        with head.mode:
            result, macs = measure_macs(lambda: head.module(head.outputs(BATCHES[0])))
    except DataDependentOutputException as error:
        raise GateError(
            f"{head} reads a tensor's values to decide what to do, which a static network cannot; "
            "say it with tensor operators, such as torch.where."
        ) from error
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise GateError(f"{head} does not run on the backbone's output: {reason}") from error
    node = graph.call_module(f"heads.{head.task}", (taken,))
    tensor = result if isinstance(result, Tensor) else None
    node.meta["info"] = NodeInfo(
        streams=(head.stream,),
        shape=None if tensor is None else tuple(tensor.shape),
        dtype=None if tensor is None else tensor.dtype,
        batch_multiple=0 if tensor is None else 1,
        macs=macs // BATCHES[0],
    )
    return _checked(node, head)


def _take(graph: fx.Graph, leaf: fx.Node, stream: int) -> fx.Node:
    """Returns a new node by which a head reads a leaf of the backbone's output."""
    node = graph.call_function(take_stream, (leaf, stream))
    node.meta["info"] = replace(info(leaf), streams=(stream,), macs=0)
    return node


def _checked(result: fx.Node | None, head: _Head) -> fx.Node:
    """Returns the output of a head, which must be one tensor with the batch first."""
    if result is None or not info(result).batch_multiple:
        raise GateError(f"{head} does not return one tensor; allowed is a single tensor with the batch first.")
    return result
