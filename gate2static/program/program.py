"""The program: one graph that says what is computed, for which streams, and where the gates are.

It is the backbone's graph with a gate node after each gated unit, followed by each task's head. Backbone nodes exist
for all T+1 streams, and head nodes for their task alone. Lifting turns the program into the network that trains, and
pruning reads it; nothing else knows the architecture.
"""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gate2static.errors import GateError, TraceError
from gate2static.graphs import copy_structure
from gate2static.program.annotate import (
    InputsAt,
    NodeError,
    NodeInfo,
    annotate,
    fake_inputs,
    info,
)
from gate2static.program.calls import Call, call_of
from gate2static.program.check_capture import check_capture
from gate2static.program.heads import Head, HeadResults, append_head, attach_heads, take_features, take_stream
from gate2static.program.signatures import Signature, layer_signatures, signature_of
from gate2static.program.size_decisions import Shapes, SizeDecisions
from gate2static.program.structures import Structure, tensors_of
from gate2static.program.tracing.trace import trace
from gate2static.program.units import Unit, gated_unit, insert_gates
from gate2static.program.value_ranges import ValueRange, value_range


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
    root, graph, outputs = trace_backbone(backbone, examples, fake_inputs(mode, inputs), streams)
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
    """Traces heads in place of those that a program ends with, of the same tasks or of others.

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


def of_tasks(program: Program, tasks: Collection[str]) -> Program:
    """Leaves out the heads of other tasks; all streams of the backbone stay, since the shared one mixes them all.

    Args:
        program: The program, which is not changed.
        tasks: The tasks whose heads stay, at least one.
    """
    streams = {number for number, task in enumerate(program.heads) if task in tasks}
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        of_other_head = len(info(node).streams) == 1 and info(node).streams[0] not in streams
        if node.op != "output" and not of_other_head:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    (output,) = program.graph.find_nodes(op="output")
    named = {name: copies[node] for name, node in program.outputs.items() if name.partition(".")[0] in tasks}
    graph.output(named).meta["info"] = info(output)
    return replace(
        program,
        graph=graph,
        features=fx.map_arg(program.features, copies.__getitem__),
        heads={task: signature for task, signature in program.heads.items() if task in tasks},
        head_decisions={task: found for task, found in program.head_decisions.items() if task in tasks},
    )


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
    streams = tuple(range(len(heads) + 1))
    for node in program.backbone():
        copies[node] = graph.node_copy(node, copies.__getitem__)
        copies[node].meta["info"] = replace(info(node), streams=streams)
    features = fx.map_arg(program.features, copies.__getitem__)
    structure = program.structure
    results: dict[str, HeadResults] = {}
    for stream, (task, module) in enumerate(heads.items()):
        head = Head(module, task, stream, lambda batch: structure.build(tensors_of(outputs(batch))), mode)
        taken = structure.build([take_features(graph, tensor, stream) for tensor in tensors_of(features)])
        results[task] = append_head(graph, taken, head)
    by_name = {name: node for of_head in results.values() for name, node in of_head.outputs.items()}
    graph.output(by_name).meta["info"] = NodeInfo(streams=streams)
    return replace(
        program,
        graph=graph,
        features=features,
        heads={task: signature_of(module) for task, module in heads.items()},
        head_decisions={task: of_head.decisions for task, of_head in results.items() if of_head.decisions},
    )


def program_at(program: Program, root: nn.Module, heads: nn.Module, shapes: Shapes) -> Program:
    """Annotates a program for inputs of other sizes.

    Args:
        program: The program, which is not changed.
        root: The owner of the modules that its backbone names; it is not changed.
        heads: The heads by task.
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
    owner = copy.copy(root)
    # A shallow copy would share them with the root.
    owner._modules = dict(root._modules)
    name = attach_heads(owner, heads)
    named = [node for node in program.graph.nodes if node.op in ("call_module", "get_attr")]
    of_heads = [node for node in named if len(info(node).streams) == 1]
    for node in of_heads:
        copies[node].target = f"{name}{str(node.target).removeprefix('heads')}"
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    device = next(root.parameters()).device
    placeholders = graph.find_nodes(op="placeholder")
    with mode:
        examples = tuple(
            torch.empty((1, *shape), dtype=info(node).dtype, device=device)
            for node, shape in zip(placeholders, shapes, strict=True)
        )
    annotate(owner.eval(), graph, fake_inputs(mode, examples), (), "the network")
    for node, copied in copies.items():
        copied.meta["info"] = replace(info(copied), streams=info(node).streams)
    for mark, target in marks.items():
        mark.target = target
    for node in of_heads:
        copies[node].target = node.target
    return replace(program, graph=graph, features=fx.map_arg(program.features, copies.__getitem__))


def _first(value: Any, _: Any) -> Any:
    """Stands for the marks of a program while it runs."""
    return value


def trace_backbone(
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


