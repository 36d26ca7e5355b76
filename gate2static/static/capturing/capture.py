"""An emitted network -> the graph of tensor operators that a `StaticModel` runs and saves.

What is verified, saved, loaded and exported is this one form, whatever modules and user code it came from. Networks run
twice on tensors without content, at two batch sizes; the operators of both runs give one graph for any batch. What that
cannot follow, torch.export does, in ten times the time: writing in place, above all. Both give the same graph.
"""

import inspect
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from gate2static.errors import PruneError
from gate2static.graphs import quiet, remove_unread
from gate2static.messages import brief
from gate2static.static.aten import ANY_BATCH, carry_shape
from gate2static.static.aten_forms import CANONICAL, form_in_aten
from gate2static.static.capturing.any_batch import unify
from gate2static.static.capturing.any_size import unify_sizes
from gate2static.static.recording import record, stored_tensors

_aten = torch.ops.aten
_FUNCTIONAL_NORM = _aten._native_batch_norm_legit_no_training.default


ORIGINS = "origins"
"""Key of `GraphModule.meta` under which a captured network says which tensor of the network is which of its own."""

CAPTURED_BATCH = 3
"""The batch that networks are captured with. Not 2: torch.export, where it has to help, would tie a size of 2 that code
reads elsewhere to the batch."""


def capture(network: nn.Module, examples: tuple[Tensor, ...]) -> fx.GraphModule:
    """Reduces a network to operators, with a dynamic batch size.

    Args:
        network: Returns a tuple of tensors; in eval mode.
        examples: Its inputs, with a batch of at least 2.

    Returns:
        A graph module that owns its tensors under plain numbered names (`store`). Its nodes are annotated, unless
        torch.export had to capture it.

    Raises:
        PruneError: torch.export cannot follow the network, or it works at one batch size only.
    """
    try:
        return recorded(network, examples)
    except PruneError:
        raise
    except Exception:  # noqa: BLE001 - user code may do anything; if it is wrong, torch.export says how
        return _in_forms(exported(network, examples), examples)


def _in_forms(network: fx.GraphModule, examples: tuple[Tensor, ...]) -> fx.GraphModule:
    """Writes operators that a static network has in others only, which torch.export leaves as they are."""
    with_form = [node for node in network.graph.nodes if form_of(node) is not None]
    if not with_form:
        return network
    for node in with_form:
        node.target = form_of(node)
    network.recompile()
    return recorded(network, examples)


def form_of(node: fx.Node) -> Any:
    """Returns how the operator that a node calls is written in others, or None."""
    return form_in_aten(node.target) if isinstance(node.target, torch._ops.OpOverload) else None


def recorded(network: nn.Module, examples: tuple[Tensor, ...]) -> fx.GraphModule:
    """Captures a network by running it at two batch sizes; raises what `recorded_graph` raises."""
    return _own_graph(*recorded_graph(network, examples))


def recorded_graph(network: nn.Module, examples: tuple[Tensor, ...]) -> tuple[fx.Graph, dict[str, Tensor]]:
    """Finds the operators that a network runs, for any batch size, by running it at two of them.

    Args:
        network: Returns a tuple of tensors; in eval mode.
        examples: Its inputs, with a batch of at least 2.

    Returns:
        The annotated graph, whose placeholders are the network's tensors and then its inputs; and name of a placeholder
        -> the network's tensor.

    Raises:
        UnrecordedError: The network does something that operators on tensors without content cannot say.
        Exception: Anything that its code raises on such tensors.
    """
    batch = next(len(x) for x in examples if x.dim())
    with _unseen():
        small, large = record(network, examples, batch), record(network, examples, ANY_BATCH)
        return unify(small, large, stored_tensors(network), _input_names(network, examples))


def captured_at_sizes(
    networks: Sequence[nn.Module], examples: Sequence[tuple[Tensor, ...]]
) -> tuple[fx.GraphModule, list[tuple[int, ...]]]:
    """Reduces a network to operators, for any batch size and for any of some other sizes.

    Args:
        networks: The network as it is for each of several sizes of its inputs; in eval mode.
        examples: The inputs of each.

    Returns:
        A graph module as `capture` returns it, and the dimensions of each output that follow the sizes.

    Raises:
        PruneError: The networks differ in more than sizes that follow those of the inputs.
    """
    try:
        graph, tensors = recorded_graph_at_sizes(networks, examples)
    except Exception as error:
        sizes = " and ".join(str([tuple(x.shape[1:]) for x in inputs]) for inputs in examples[:2])
        raise PruneError(
            f"the pruned network is not the same for inputs of {sizes}: {brief(error, 300)}. Prune it "
            "without dynamic, for the size of the example inputs."
        ) from error
    (output,) = graph.find_nodes(op="output")
    return _own_graph(graph, tensors), output.meta["free_dims"]


def recorded_graph_at_sizes(
    networks: Sequence[nn.Module], examples: Sequence[tuple[Tensor, ...]]
) -> tuple[fx.Graph, dict[str, Tensor]]:
    """Finds the operators that a network runs, for any batch size and any of some other sizes.

    Args:
        networks: The network as it is for each of several sizes of its inputs; in eval mode.
        examples: The inputs of each.

    Returns:
        As `unify_sizes` returns them.

    Raises:
        UnrecordedError: The networks differ in more than sizes that follow those of the inputs.
        Exception: Anything that their code raises on tensors without content.
    """
    batches = (ANY_BATCH, 3, 5, 7, 11, 13)
    with _unseen():
        recordings = [
            record(network, inputs, batch) for network, inputs, batch in zip(networks, examples, batches, strict=False)
        ]
        return unify_sizes(recordings, stored_tensors(networks[0]), _input_names(networks[0], examples[0]))


def _input_names(network: nn.Module, examples: tuple[Tensor, ...]) -> list[str]:
    """The names that torch.export gives a network's inputs."""
    if isinstance(network, fx.GraphModule):
        return [str(node.target) for node in network.graph.find_nodes(op="placeholder")]
    names = []
    for name, value in inspect.signature(network.forward).bind(*examples).arguments.items():
        names += [f"{name}_{i}" for i in range(len(value))] if isinstance(value, tuple) else [name]
    return names


def exported(network: nn.Module, examples: tuple[Tensor, ...]) -> fx.GraphModule:
    """Captures a network by torch.export; what writes in place is written out of place.

    Raises:
        PruneError: torch.export cannot follow the network, or it works at one batch size only.
    """
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({0: batch} if isinstance(x, Tensor) and x.dim() else None for x in examples)
    try:
        with _unseen():
            program = torch.export.export(network, examples, dynamic_shapes=shapes, strict=False)
            if any(_writes(node) for node in program.graph.nodes):
                program = program.run_decompositions({})
    except Exception as error:
        raise PruneError(
            "torch.export cannot turn the pruned network into one graph with a dynamic batch size: "
            f"{brief(error, 400)}. Backbone and heads may not branch on tensor values or fix the batch size."
        ) from error
    for node in program.graph.nodes:
        node.meta.clear()  # sizes that are symbols; `annotate` finds them as numbers
    stored = {**program.state_dict, **program.constants}
    inputs = (spec for spec in program.graph_signature.input_specs if spec.kind is not InputKind.USER_INPUT)
    targets = {spec.arg.name: str(spec.target) for spec in inputs}
    for node in program.graph.nodes:
        node.target = targets.get(node.name, node.target)  # the tensor's own name, as in a recorded graph
    return _own_graph(program.graph, {name: stored[target] for name, target in targets.items()})


@contextmanager
def _unseen() -> Iterator[None]:
    """Without gradients, and without what torch warns and logs."""
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _own_graph(traced: fx.Graph, stored: Mapping[str, Tensor]) -> fx.GraphModule:
    """Returns a graph over tensors of its own; `stored` are those tensors, by the node that reads them."""
    root, graph = nn.Module(), fx.Graph()
    origins: dict[str, str] = {}
    env: dict[fx.Node, fx.Node] = {}
    for node in traced.nodes:
        if node.name in stored:
            if node.users:
                value = stored[node.name]
                name = store(root, value, trained=isinstance(value, nn.Parameter))
                env[node] = graph.get_attr(name)
                origins[name] = str(node.target)
        elif node.op == "placeholder":
            env[node] = graph.placeholder(node.name)
            carry_shape(node, env[node])
        elif node.op == "output":
            graph.output(tuple(env[n] for n in node.args[0]))
        elif not _is_check(node):
            env[node] = _translate(graph, node, env)
    remove_unread(graph)
    network = fx.GraphModule(root, graph, "StaticNetwork")
    network.meta[ORIGINS] = origins
    return network


def _translate(graph: fx.Graph, node: fx.Node, env: Mapping[fx.Node, fx.Node]) -> fx.Node:
    if node.target is _aten.clone.default and not node.kwargs:
        return env[node.args[0]]  # type: ignore[index]  # nothing is written any more: as good as a copy
    if node.target is _FUNCTIONAL_NORM:
        *tensors, momentum, eps = fx.map_arg(node.args, env.__getitem__)
        return graph.call_function(_aten.batch_norm.default, (*tensors, False, momentum, eps, False))
    if node.target is operator.getitem and env[node.args[0]].target is _aten.batch_norm.default:  # type: ignore[index]
        return env[node.args[0]]  # type: ignore[index]
    copied = graph.node_copy(node, env.__getitem__)
    copied.target = CANONICAL.get(node.target, node.target)
    copied.meta = {}
    carry_shape(node, copied)
    return copied


def store(root: nn.Module, value: Tensor, *, trained: bool) -> str:
    """Keep a tensor on `root` under the next free name: `parameter_0`, … where it was trained, else `buffer_0`, …."""
    kind, held = ("parameter", root._parameters.keys()) if trained else ("buffer", root._buffers.keys())
    name = next(name for number in count(len(held)) if (name := f"{kind}_{number}") not in held)
    if trained:
        root.register_parameter(name, nn.Parameter(value.detach().clone(), requires_grad=False))
    else:
        root.register_buffer(name, value.detach().clone())
    return name


def constant(network: fx.GraphModule, node: Any) -> Tensor:
    """The tensor that a node reads."""
    value: Tensor = operator.attrgetter(str(node.target))(network)
    return value.detach()


def _writes(node: fx.Node) -> bool:
    """Whether an operator changes its input, as heads that torch.fx cannot trace may do."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _is_check(node: fx.Node) -> bool:
    """Assertions that torch.export leaves about sizes and devices."""
    name = str(node.target)
    return "_assert" in name or "sym_constrain" in name
