"""The program: one graph that says what is computed, for which streams, and where the gates are.

It is the backbone's graph with a gate node after each gated unit, followed by each task's head. Backbone nodes exist
for all T+1 streams, and head nodes for their task alone. Lifting turns the program into the network that trains, and
pruning reads it; nothing else knows the architecture.

Heads are traced for pruning only, since training runs the user's own modules. So a head that torch.fx cannot follow is
no error: it is one opaque call.
"""

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from gate2static.errors import GateError, TraceError
from gate2static.graphs import copy_structure, quiet
from gate2static.messages import brief
from gate2static.program.annotate import (
    BATCHES,
    InputsAt,
    NodeError,
    NodeInfo,
    annotate,
    fake_inputs,
    info,
    measure_macs,
)
from gate2static.program.calls import Call, call_of
from gate2static.program.check_capture import check_capture
from gate2static.program.signatures import Signature, layer_signatures, signature_of
from gate2static.program.size_decisions import Shapes, SizeDecisions
from gate2static.program.structures import Path, Structure, take_apart, tensors_of
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
        graph: Placeholders, the backbone with gate nodes, and the heads; the output is a dict from an output's name to
            its node. An output is named for its task, and `task.name` where a head returns several. Modules are named
            relative to a branch in the backbone, and relative to the gated model (`heads.<task>.…`) in the heads.
        call: How the backbone is called.
        features: The tensors of the backbone's output: one node, or a tuple of them.
        structure: The structure that the backbone returns these in.
        units: The gated units in data-flow order.
        ranges: The ranges of the example inputs, in the order of the placeholders.
        layers: Name -> signature of the modules that the backbone calls.
        heads: Task -> signature of the head that was traced.
        decisions: What the backbone decided on sizes; None where it decided nothing.
        head_decisions: Task -> what its head decided on the sizes of the features, for heads that decided something.
    """

    graph: fx.Graph
    call: Call
    features: fx.Node | tuple[fx.Node, ...]
    structure: Structure
    units: tuple[Unit, ...]
    ranges: tuple[ValueRange | None, ...]
    layers: Mapping[str, Signature]
    heads: Mapping[str, Signature]
    decisions: SizeDecisions | None
    head_decisions: Mapping[str, SizeDecisions]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Program":
        """Returns the program itself: nothing changes it once it is built, so copies of a model share it."""
        return self

    @property
    def outputs(self) -> dict[str, fx.Node]:
        """Name of an output -> its node."""
        (output,) = self.graph.find_nodes(op="output")
        by_name: dict[str, fx.Node] = output.args[0]
        return by_name

    @property
    def input_names(self) -> list[str]:
        """The names of the inputs: those of the placeholders, and `x_input` where an output is named `x`.

        ONNX files know each name once.
        """
        names = [node.name for node in self.graph.find_nodes(op="placeholder")]
        outputs = self.outputs
        for number in range(len(names)):
            while names[number] in outputs:
                free = f"{names[number]}_input"
                # Another input may have that name already.
                names[number] = free if free not in names else f"{free}_{number}"
        return names

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
        inputs: Batch size -> the backbone's output, as fake tensors.
        mode: The mode of the fake tensors.
    """

    module: nn.Module
    task: str
    stream: int
    inputs: Callable[[int], Any]
    mode: FakeTensorMode

    def tensors(self, batch: int) -> tuple[Tensor, ...]:
        """Returns the tensors of the backbone's output at a batch size, as fake tensors."""
        return tuple(tensors_of(self.inputs(batch)))

    def __str__(self) -> str:
        return f"the head of task {self.task!r}"


@dataclass(frozen=True)
class _Results:
    """What a head adds to a program.

    Attributes:
        outputs: Name of an output -> its node.
        decisions: What the head decided on the sizes of the features; None where it decided nothing.
    """

    outputs: Mapping[str, fx.Node]
    decisions: SizeDecisions | None


def build_program(
    backbone: nn.Module, heads: Mapping[str, nn.Module], examples: Sequence[Any] | Mapping[str, Any]
) -> tuple[nn.Module, Program]:
    """Traces a backbone and its heads, and inserts the gates.

    Args:
        backbone: The module to gate; it is not changed.
        heads: Task -> head, in eval mode and in the order of the streams.
        examples: The backbone's arguments by position, or by name where they are a dict; batch first.

    Returns:
        The traced copy of the backbone, whose modules the program names, and the program.

    Raises:
        TraceError: The backbone cannot be traced, does not run on the examples, or does not return tensors.
        GateError: There is no gated unit, or a head does not run on the backbone's output or does not return tensors.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    streams = tuple(range(len(heads) + 1))
    call, inputs = call_of(backbone, examples, "the backbone")
    root, graph, outputs = _trace_backbone(backbone, examples, fake_inputs(mode, inputs), streams)
    output = next(iter(graph.find_nodes(op="output")))
    structure: Structure = output.meta["structure"]
    _check_features(tensors_of(output.args[0]), structure)
    plain = fx.Graph()
    plain.output(plain.graph_copy(graph, {}))
    units = insert_gates(root, graph)
    if not units:
        raise GateError("the backbone has no convolution or linear layer, so there is nothing to gate.")
    program = Program(
        graph=graph,
        # Gates have replaced their units in the output meanwhile.
        features=output.args[0],
        call=call,
        structure=structure,
        units=units,
        ranges=tuple(map(value_range, inputs)),
        layers=layer_signatures(root, graph),
        heads={},
        decisions=output.meta.get("size_decisions"),
        head_decisions={},
    )
    program = _with_heads(program, heads, outputs, mode)
    macs = sum(info(node).macs for node in program.graph.nodes)
    check_capture(root, plain, heads, inputs, structure, macs=macs)
    return root, program


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
            return [
                torch.empty(info(node).at(batch), dtype=info(node).dtype, device=device)
                for node in tensors_of(program.features)
            ]

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
    structure = program.structure
    results: dict[str, _Results] = {}
    for stream, (task, module) in enumerate(heads.items()):
        head = _Head(module, task, stream, lambda batch: structure.build(tensors_of(outputs(batch))), mode)
        taken = structure.build([_take(graph, tensor, stream) for tensor in tensors_of(features)])
        results[task] = _append_head(graph, taken, head)
    by_name = {name: node for of_head in results.values() for name, node in of_head.outputs.items()}
    graph.output(by_name).meta["info"] = NodeInfo(streams=tuple(range(len(heads) + 1)))
    return replace(
        program,
        graph=graph,
        features=features,
        heads={task: signature_of(module) for task, module in heads.items()},
        head_decisions={task: of_head.decisions for task, of_head in results.items() if of_head.decisions},
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
    backbone: nn.Module, examples: Sequence[Any] | Mapping[str, Any], inputs: InputsAt, streams: tuple[int, ...]
) -> tuple[nn.Module, fx.Graph, Any]:
    """Traces and annotates a backbone, and keeps submodules whole whose traces do not run.

    A trace does not run where its code asks what is a tensor, for example.

    Returns:
        The traced copy, its graph, and a function from a batch size to the output's tensors as fake tensors.
    """
    whole: frozenset[str] = frozenset()
    first_error: TraceError | None = None
    while True:
        try:
            root, graph = trace(backbone, examples, "the backbone", whole=whole)
            outputs = annotate(copy_structure(root), graph, inputs, streams, "the backbone")
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


def _check_features(tensors: Sequence[Any], structure: Structure) -> None:
    """Refuses what a backbone returns unless it is a structure of tensors with the batch first."""
    is_batched = all(isinstance(node, fx.Node) and info(node).batch_multiple for node in tensors)
    if not tensors or not is_batched or any(value is not None for _, value in structure.constants):
        raise TraceError(
            f"the backbone returns {structure.build(tensors)}; allowed is a tensor, or a tuple, list or dict, a named "
            "tuple or a dataclass of tensors with the batch first, and None."
        )


def _append_head(graph: fx.Graph, taken: Any, head: _Head) -> _Results:
    """Appends a head to a program's graph.

    Args:
        graph: The graph of the program, changed in place.
        taken: The head's argument, with nodes for tensors.
        head: The head.

    Raises:
        GateError: The head does not run on the backbone's output or does not return tensors.
    """
    _check_single_sample(head)
    head_graph = _trace_head(head)
    if head_graph is None:
        return _append_whole_head(graph, taken, head)
    annotate(copy_structure(head.module), head_graph, head.tensors, (head.stream,), str(head))
    # The head's graph has a placeholder for each tensor of the features.
    copies = dict(zip(head_graph.find_nodes(op="placeholder"), tensors_of(taken), strict=True))
    for node in head_graph.nodes:
        if node.op == "output":
            found = node.meta.get("size_decisions")
            results = [copies.get(value) for value in tensors_of(node.args[0])]
            return _Results(_named(head, node.meta["structure"], results), found)
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
    features = head.inputs(few)
    tensors, structure = take_apart(features)
    one = structure.build([x[: len(x) // few] for x in tensors])
    try:
        with head.mode, torch.no_grad(), quiet():
            of_one, of_few = copy_structure(head.module)(one), copy_structure(head.module)(features)
    except Exception:  # noqa: BLE001  # what does not run is refused where it is traced
        return
    for a, b in zip(tensors_of(of_one), tensors_of(of_few), strict=False):
        if a.dim() < b.dim():
            raise GateError(
                f"{head} returns {tuple(b.shape)} for {few} samples and {tuple(a.shape)} for one: `squeeze()` without "
                "a dimension removes the batch too. Name the dimensions, as in `squeeze(-1)`, or use `flatten(1)`."
            )


def _trace_head(head: _Head) -> fx.Graph | None:
    """Returns the graph of a head, or None for a head that is one layer or that torch.fx cannot follow."""
    try:
        if is_leaf(head.module):
            return None
        _, graph = trace(head.module, (head.inputs(BATCHES[0]),), str(head), trains=False)
    except TraceError:
        return None
    # A tensor that the head makes up while it runs is no part of the user's own module.
    makes_tensors = any("_tensor_constant" in str(node.target) for node in graph.find_nodes(op="get_attr"))
    return None if makes_tensors else graph


def _append_whole_head(graph: fx.Graph, taken: Any, head: _Head) -> _Results:
    """Appends a head as one call."""
    try:
        with head.mode:
            result, macs = measure_macs(lambda: head.module(head.inputs(BATCHES[0])))
    except DataDependentOutputException as error:
        raise GateError(
            f"{head} reads a tensor's values to decide what to do, which a static network cannot; "
            "say it with tensor operators, such as torch.where."
        ) from error
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise GateError(f"{head} does not run on the backbone's output: {brief(error, 300)}") from error
    node = graph.call_module(f"heads.{head.task}", (taken,))
    structure = take_apart(result)[1]
    node.meta["info"] = _facts(result, head, macs // BATCHES[0])
    picked = [_pick(graph, node, path, result, head) for path in structure.paths]
    return _Results(_named(head, structure, picked), None)


def _pick(graph: fx.Graph, node: fx.Node, path: Path, result: Any, head: _Head) -> fx.Node:
    """Returns a new node for one tensor of what a whole head returns.

    Args:
        graph: The graph of the program, changed in place.
        node: The call of the head.
        path: The way to the tensor.
        result: What the head returns, as fake tensors.
        head: The head.
    """
    for step in path:
        result = step.take(result)
        node = graph.call_function(getattr if step.is_attribute else operator.getitem, (node, step.key))
        node.meta["info"] = _facts(result, head, 0)
    return node


def _facts(value: Any, head: _Head, macs: int) -> NodeInfo:
    """Returns the facts about a value of a whole head."""
    if not isinstance(value, Tensor):
        return NodeInfo(streams=(head.stream,), macs=macs)
    return NodeInfo(
        streams=(head.stream,), shape=tuple(value.shape), dtype=value.dtype, batch_multiple=1, macs=macs
    )


def _take(graph: fx.Graph, leaf: fx.Node, stream: int) -> fx.Node:
    """Returns a new node by which a head reads a tensor of the backbone's output."""
    node = graph.call_function(take_stream, (leaf, stream))
    node.meta["info"] = replace(info(leaf), streams=(stream,), macs=0)
    return node


def output_names(task: str, structure: Structure) -> list[str]:
    """Returns the names of a head's outputs: the task's, with the keys, indices or attributes that lead to each.

    Raises:
        GateError: A key is no word, or two of them are written alike.
    """
    names = [".".join([task, *(str(step.key) for step in path)]) for path in structure.paths]
    bad = [name for name in names if not re.fullmatch(r"\w+(\.\w+)*", name, re.ASCII) or names.count(name) > 1]
    if bad:
        raise GateError(
            f"the head of task {task!r} returns outputs named {', '.join(map(repr, bad))}; allowed are different keys "
            "of letters, digits and underscores."
        )
    return names


def named_outputs(results: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the outputs of all heads by name.

    Args:
        results: Task -> what its head returned.
    """
    outputs: dict[str, Tensor] = {}
    for task, result in results.items():
        tensors, structure = take_apart(result)
        outputs.update(zip(output_names(task, structure), tensors, strict=True))
    return outputs


def _named(head: _Head, structure: Structure, nodes: Sequence[fx.Node | None]) -> dict[str, fx.Node]:
    """Returns the outputs of a head by name, which must be tensors with the batch first."""
    is_batched = all(node is not None and info(node).batch_multiple for node in nodes)
    if not nodes or not is_batched or any(value is not None for _, value in structure.constants):
        raise GateError(
            f"{head} does not return tensors; allowed is a tensor with the batch first, or a tuple, list or dict, a "
            "named tuple or a dataclass of such tensors and None."
        )
    named = zip(output_names(head.task, structure), nodes, strict=True)
    return {name: node for name, node in named if node is not None}
