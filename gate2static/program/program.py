"""The program: one graph that says what is computed, for which streams, and where the gates are.

It is the backbone's graph with a gate node after each gated unit, followed by each task's head. Backbone nodes exist
for all T+1 streams, head nodes for their task alone. Lifting turns it into the network that trains; pruning reads it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils import _pytree as pytree

from gate2static.errors import GateError, TraceError
from gate2static.graphs import copy_structure
from gate2static.program.annotate import Info, NodeError, annotate, fake_inputs, info, measure_macs
from gate2static.program.trace import trace
from gate2static.program.tracer import is_leaf
from gate2static.program.units import Unit as Unit
from gate2static.program.units import gated_unit as gated_unit
from gate2static.program.units import insert_gates


def take_stream(value: Tensor, stream: int) -> Tensor:
    """Marks where a head picks up its task's stream in a program; never called."""
    raise AssertionError(stream)


@dataclass(frozen=True, kw_only=True)
class Program:
    """What `build_program` makes.

    Attributes:
        graph: placeholders, backbone with gate nodes, heads; its output is a dict task -> node. Modules are named
            relative to a branch in the backbone and relative to the gated model (`heads.<task>.…`) in the heads.
        features: the backbone's output structure, with nodes for leaves.
        units: the gated units, in data-flow order.
    """

    graph: fx.Graph
    features: Any
    units: tuple[Unit, ...]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Program":
        """Nothing changes a program once it is built, so copies of a model share it."""
        return self

    def backbone(self) -> Iterator[fx.Node]:
        """The nodes before the heads."""
        for node in self.graph.nodes:
            if node.target is take_stream or node.op == "output" or len(info(node).streams) == 1:
                return
            yield node


def build_program(
    backbone: nn.Module, heads: Mapping[str, nn.Module], examples: tuple[Any, ...]
) -> tuple[nn.Module, Program]:
    """Trace backbone and heads and put the gates in.

    Returns:
        The traced copy of the backbone whose modules the program names, and the program.

    Raises:
        TraceError: the backbone cannot be traced, does not run on the examples, or does not return tensors.
        GateError: no gated unit, or a head that does not run on the backbone's output or does not return a tensor.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    streams = tuple(range(len(heads) + 1))
    root, graph, outputs = _trace_backbone(backbone, examples, mode, streams)
    output = next(iter(graph.find_nodes(op="output")))
    features = output.args[0]
    leaves = pytree.tree_leaves(features)
    if named := [leaf.target.__name__ for leaf in leaves if hasattr(getattr(leaf, "target", None), "_fields")]:
        raise TraceError(
            f"the backbone returns the named tuple {named[0]}; allowed are plain tuples, lists and dicts of tensors."
        )
    if not all(isinstance(leaf, fx.Node) and info(leaf).batch_multiple for leaf in leaves):
        raise TraceError(
            f"the backbone returns {features}; allowed is a tensor, or a tuple, list or dict of tensors with the "
            "batch first."
        )
    units = insert_gates(root, graph)
    if not units:
        raise GateError("the backbone has no convolution or linear layer, so there is nothing to gate.")
    program_graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    program_graph.graph_copy(graph, copied)
    features = fx.map_arg(output.args[0], copied.__getitem__)
    results = {
        task: _append_head(program_graph, features, outputs, task, index, head, mode)
        for index, (task, head) in enumerate(heads.items())
    }
    program_graph.output(results).meta["info"] = Info(streams=streams)
    return root, Program(graph=program_graph, features=features, units=units)


def _trace_backbone(
    backbone: nn.Module, examples: tuple[Any, ...], mode: FakeTensorMode, streams: tuple[int, ...]
) -> tuple[nn.Module, fx.Graph, Any]:
    """Trace and annotate. A submodule whose trace does not run stays whole: it may ask what is a tensor."""
    whole: frozenset[str] = frozenset()
    first: TraceError | None = None
    while True:
        try:
            root, graph = trace(backbone, examples, "the backbone", whole=whole)
            outputs = annotate(copy_structure(root), graph, fake_inputs(mode, examples), streams, "the backbone")
        except TraceError as error:
            first = first or error
            node = error.node if isinstance(error, NodeError) else None
            stack = {} if node is None else node.meta.get("nn_module_stack", {})
            around = [path for path, _ in stack.values() if node and path not in (*whole, node.target)]
            if not around:
                raise first from error
            whole |= {around[-1]}
        else:
            return root, graph, outputs


def _append_head(
    graph: fx.Graph, features: Any, outputs: Any, task: str, index: int, head: nn.Module, mode: FakeTensorMode
) -> fx.Node:
    what = f"the head of task {task!r}"
    taken = pytree.tree_map(lambda leaf: _take(graph, leaf, index), features)
    try:
        if is_leaf(head):
            return _append_whole_head(graph, taken, outputs, task, index, head, mode)
        _, head_graph = trace(head, (outputs(2),), what, own=False)
    except TraceError:
        head_graph = None
    if head_graph is None or any("_tensor_constant" in str(n.target) for n in head_graph.find_nodes(op="get_attr")):
        # What the head makes up while it runs is no part of the user's own module.
        return _append_whole_head(graph, taken, outputs, task, index, head, mode)
    annotate(copy_structure(head), head_graph, lambda batch: (outputs(batch),), (index,), what)
    copied = dict(zip(head_graph.find_nodes(op="placeholder"), pytree.tree_leaves(taken), strict=True))
    for node in head_graph.nodes:
        if node.op == "output":
            return _checked(copied.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None, what)
        if node.op == "placeholder":
            continue
        copied[node] = graph.node_copy(node, copied.__getitem__)
        if node.op in ("call_module", "get_attr"):
            copied[node].target = f"heads.{task}.{node.target}"
    raise AssertionError("a graph without output")


def _append_whole_head(
    graph: fx.Graph, taken: Any, outputs: Any, task: str, index: int, head: nn.Module, mode: FakeTensorMode
) -> fx.Node:
    """A head that is one layer, or that fx cannot trace, is one call."""
    try:
        with mode:
            result, macs = measure_macs(lambda: head(outputs(2)))
    except DataDependentOutputException as error:
        raise GateError(
            f"the head of task {task!r} reads a tensor's values to decide what to do, which a static network cannot; "
            "say it with tensor operators, such as torch.where."
        ) from error
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise GateError(f"the head of task {task!r} does not run on the backbone's output: {reason}") from error
    node = graph.call_module(f"heads.{task}", (taken,))
    tensor = result if isinstance(result, Tensor) else None
    node.meta["info"] = Info(
        streams=(index,),
        shape=None if tensor is None else tuple(tensor.shape),
        dtype=None if tensor is None else tensor.dtype,
        batch_multiple=0 if tensor is None else 1,
        macs=macs // 2,
    )
    return _checked(node, f"the head of task {task!r}")


def _take(graph: fx.Graph, leaf: fx.Node, index: int) -> fx.Node:
    node = graph.call_function(take_stream, (leaf, index))
    node.meta["info"] = replace(info(leaf), streams=(index,), macs=0)
    return node


def _checked(result: fx.Node | None, what: str) -> fx.Node:
    if result is None or not info(result).batch_multiple:
        raise GateError(f"{what} does not return one tensor; allowed is a single tensor with the batch first.")
    return result
