"""The heads of a program: traced, or one call where torch.fx cannot follow them, and the names of what they return.

Heads are traced for pruning only, since training runs the user's own modules. So a head that torch.fx cannot follow is
no error: it is one opaque call.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from gate2static.errors import GateError, TraceError
from gate2static.graphs import copy_structure, quiet
from gate2static.messages import brief
from gate2static.program.annotate import BATCHES, NodeInfo, annotate, info, measure_macs
from gate2static.program.size_decisions import SizeDecisions
from gate2static.program.structures import Path, Structure, take_apart, tensors_of
from gate2static.program.tracing.trace import trace
from gate2static.program.tracing.tracer import is_leaf


def take_stream(value: Tensor, stream: int) -> Tensor:
    """Marks where a head picks up its task's stream in a program; it is never called.

    Args:
        value: A leaf of the backbone's output.
        stream: The number of the task.
    """
    raise AssertionError(stream)


@dataclass(frozen=True)
class Head:
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
class HeadResults:
    """What a head adds to a program.

    Attributes:
        outputs: Name of an output -> its node.
        decisions: What the head decided on the sizes of the features; None where it decided nothing.
    """

    outputs: Mapping[str, fx.Node]
    decisions: SizeDecisions | None


def attach_heads(owner: nn.Module, heads: nn.Module) -> str:
    """Adds heads to the modules of a backbone, which may have some of the same name itself.

    Args:
        owner: The owner of the backbone's modules, changed in place.
        heads: The heads as one module.

    Returns:
        The name under which the owner has them.
    """
    name = "heads"
    while hasattr(owner, name):
        name += "_"
    owner.add_module(name, heads)
    return name


def append_head(graph: fx.Graph, taken: Any, head: Head) -> HeadResults:
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
            decisions = node.meta.get("size_decisions")
            results = [copies.get(value) for value in tensors_of(node.args[0])]
            return HeadResults(_named(head, node.meta["structure"], results), decisions)
        if node.op == "placeholder":
            continue
        copies[node] = graph.node_copy(node, copies.__getitem__)
        # The gated model has the user's head under this name.
        if node.op in ("call_module", "get_attr"):
            copies[node].target = f"heads.{head.task}.{node.target}"
    raise AssertionError("a graph without output")


def _check_single_sample(head: Head) -> None:
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


def _trace_head(head: Head) -> fx.Graph | None:
    """Returns the graph of a head, or None for a head that is one layer or that torch.fx cannot follow."""
    try:
        features = head.inputs(BATCHES[0])
        # A layer that takes a structure is `nn.Identity`; pruning would hand one call the tensors alone.
        if is_leaf(head.module) and isinstance(features, Tensor):
            return None
        _, graph = trace(head.module, (features,), str(head), trains=False)
    except TraceError:
        return None
    # A tensor that the head makes up while it runs is no part of the user's own module.
    makes_tensors = any("_tensor_constant" in str(node.target) for node in graph.find_nodes(op="get_attr"))
    return None if makes_tensors else graph


def _append_whole_head(graph: fx.Graph, taken: Any, head: Head) -> HeadResults:
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
    return HeadResults(_named(head, structure, picked), None)


def _pick(graph: fx.Graph, node: fx.Node, path: Path, result: Any, head: Head) -> fx.Node:
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


def _facts(value: Any, head: Head, macs: int) -> NodeInfo:
    """Returns the facts about a value of a whole head."""
    if not isinstance(value, Tensor):
        return NodeInfo(streams=(head.stream,), macs=macs)
    return NodeInfo(
        streams=(head.stream,), shape=tuple(value.shape), dtype=value.dtype, batch_multiple=1, macs=macs
    )


def take_features(graph: fx.Graph, leaf: fx.Node, stream: int) -> fx.Node:
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


def _named(head: Head, structure: Structure, nodes: Sequence[fx.Node | None]) -> dict[str, fx.Node]:
    """Returns the outputs of a head by name, which must be tensors with the batch first."""
    is_batched = all(node is not None and info(node).batch_multiple for node in nodes)
    if not nodes or not is_batched or any(value is not None for _, value in structure.constants):
        raise GateError(
            f"{head} does not return tensors; allowed is a tensor with the batch first, or a tuple, list or dict, a "
            "named tuple or a dataclass of such tensors and None."
        )
    named = zip(output_names(head.task, structure), nodes, strict=True)
    return {name: node for name, node in named if node is not None}
