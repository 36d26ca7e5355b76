"""Puts what a network computes only in training into the graph of what it is deployed as.

A network whose code reads `self.training` is traced in both modes. The two graphs are laid side by side. Where a node
of both reads another value in training, an `InTraining` layer stands between: in evaluation it passes on the value of
evaluation, in training it computes that of training. The pruner sees an identity.

A difference that such a layer cannot hold, because it has parameters or several results, is an error that names the
module; the trace then keeps that module whole.
"""

import difflib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from gate2static.errors import TraceError
from gate2static.graphs import module_around
from gate2static.program.rewrites.gradients import detach, take_mark
from gate2static.program.rewrites.random_layers import random_call

ShapeOf = Callable[[Any], tuple[int, ...] | None]
"""A node -> the shape of its value, or None where it is no tensor."""

_Pair = tuple[Any, Any]
"""What a node reads in evaluation, and what it reads in training."""


class InTraining(nn.Module):
    """Computes something in training, and passes its first input on in evaluation.

    Args:
        compute: What is computed in training, from all inputs but the first.
    """

    def __init__(self, compute: fx.GraphModule) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, value: Tensor, *inputs: Any) -> Any:
        """Returns the value of evaluation or that of training.

        Args:
            value: The value of evaluation.
            inputs: What that of training is computed from.
        """
        return self.compute(*inputs) if self.training else value


class ModeError(TraceError):
    """A difference between training and evaluation that no `InTraining` layer can hold.

    Args:
        reason: What stands in the way.
        module: The innermost submodule around the difference; "" for the root.

    Attributes:
        fix: What to do about it.
    """

    fix = (
        "Move that code into a submodule of its own, which then stays whole, or say it with a layer, such as "
        "torch.nn.Dropout(p)."
    )

    def __init__(self, reason: str, module: str) -> None:
        super().__init__(reason)
        self.module = module


def add_training(
    root: nn.Module, graph: fx.Graph, trained: fx.Graph, shape_of: ShapeOf, add: Callable[[str, str, nn.Module], str]
) -> None:
    """Adds to a graph what differs in training.

    Args:
        root: The owner of the modules, parameters and constants that both graphs name.
        graph: The graph of evaluation, rewritten in place. Random functions get the arguments of training.
        trained: The graph of training, which writes nothing in place either.
        shape_of: Returns the shape of a value of either graph, or None where it is no tensor.
        add: Called with the name of a module, a name and a layer; adds the layer to it and returns its full name.

    Raises:
        ModeError: A difference has parameters or several results, or is no tensor.
    """
    _Merge(root, graph, trained, shape_of, add).run()


class _Merge:
    """One merge, see `add_training`."""

    def __init__(
        self,
        root: nn.Module,
        graph: fx.Graph,
        trained: fx.Graph,
        shape_of: ShapeOf,
        add: Callable[[str, str, nn.Module], str],
    ) -> None:
        self._root = root
        self._graph = graph
        self._shape_of = shape_of
        self._add = add
        # Node of training -> its counterpart in evaluation.
        self._counterparts = dict(_aligned(root, graph, trained))
        self._trained = trained

    def run(self) -> None:
        """Adds the layers."""
        if not any(node in self._counterparts for node in self._trained.find_nodes(op="output")):
            error = ModeError("it returns another structure in training than in evaluation", "")
            error.fix = "Return the same in both, such as by switching auxiliary outputs off."
            raise error
        self._refuse_stateful_leftovers()
        for theirs, ours in self._counterparts.items():
            take_mark(ours, theirs)
        self._take_random_arguments()
        # Node in training alone -> the pair of values that it belongs to.
        pairs: dict[fx.Node, _Pair] = {}
        for pair, users in self._readers().items():
            region = self._region(pair[1])
            for node in region:
                if node.op != "get_attr" and pairs.setdefault(node, pair) != pair:
                    raise ModeError("it makes several values in training alone", module_around(node))
            self._insert(pair, users, region)

    def _take_random_arguments(self) -> None:
        """Gives the random functions of evaluation the probability and the flag that they have in training."""
        for theirs, ours in self._counterparts.items():
            if random_call(theirs) is not None:
                source = ours.args[0] if ours.args else ours.kwargs["input"]
                ours.args = (source, *theirs.args[1:])
                ours.kwargs = {name: value for name, value in theirs.kwargs.items() if name != "input"}

    def _readers(self) -> dict[_Pair, list[fx.Node]]:
        """Returns the pairs of values that differ -> the nodes of evaluation that read them."""
        readers: dict[_Pair, list[fx.Node]] = {}
        for theirs, ours in self._counterparts.items():
            for pair in _differing_inputs(ours, theirs, self._counterparts):
                readers.setdefault(pair, []).append(ours)
        return readers

    def _region(self, value: Any) -> list[fx.Node]:
        """Returns the nodes that exist in training alone and that a value comes from, in order."""
        if not isinstance(value, fx.Node):
            raise ModeError(f"it uses {value!r} in training, where a tensor stands in evaluation", "")
        region: set[fx.Node] = set()
        unseen = [value]
        while unseen:
            node = unseen.pop()
            if node in self._counterparts or node in region or _is_stored(node):
                continue
            region.add(node)
            unseen.extend(node.all_input_nodes)
        return [node for node in self._trained.nodes if node in region]

    def _insert(self, pair: _Pair, users: list[fx.Node], region: list[fx.Node]) -> None:
        """Inserts the layer that turns a value of evaluation into that of training.

        Args:
            pair: The two values.
            users: The nodes that read them.
            region: The nodes that exist in training alone.
        """
        ours, theirs = pair
        path = _common_path(region or users)
        if not isinstance(ours, fx.Node) or self._shape_of(ours) is None or self._shape_of(theirs) is None:
            raise ModeError("what it computes in training alone is no tensor", path)
        first = min(users)
        read = [*(n for node in region for n in node.all_input_nodes), theirs]
        outside = list(dict.fromkeys(n for n in read if n not in region))
        compute = fx.Graph()
        copies = {node: compute.placeholder(node.name) for node in outside}
        for node in region:
            copies[node] = compute.node_copy(node, copies.__getitem__)
        compute.output(copies[theirs])
        detach(compute)
        inputs = [self._input(node, first) for node in outside]
        name = self._add(path, f"{ours.name}_in_training", InTraining(fx.GraphModule(self._root, compute)))
        with self._graph.inserting_before(first):
            layer = self._graph.call_module(name, (ours, *inputs))
        layer.meta["nn_module_stack"] = dict(first.meta.get("nn_module_stack", {}))
        for user in users:
            _replace_where(user, pair, layer, self._counterparts)

    def _input(self, node: fx.Node, before: fx.Node) -> fx.Node:
        """Returns the node of evaluation whose value a layer reads in training."""
        if node in self._counterparts:
            return self._counterparts[node]
        with self._graph.inserting_before(before):
            return self._graph.get_attr(str(node.target))

    def _refuse_stateful(self, node: fx.Node) -> None:
        """Refuses modules with tensors of their own, which would exist twice."""
        if node.op != "call_module":
            return
        module = self._root.get_submodule(str(node.target))
        if [*module.parameters(), *module.buffers()]:
            reason = f"{node.target!r}, which has parameters or buffers, is used in one mode alone"
            raise ModeError(reason, module_around(node))

    def _refuse_stateful_leftovers(self) -> None:
        """Refuses modules with parameters or buffers that run in one mode alone."""
        matched = {*self._counterparts, *self._counterparts.values()}
        for node in (*self._graph.nodes, *self._trained.nodes):
            if node not in matched:
                self._refuse_stateful(node)


def _aligned(root: nn.Module, graph: fx.Graph, trained: fx.Graph) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Yields pairs of nodes, of training and of evaluation, that do the same; in order in both graphs."""
    ours = list(graph.nodes)
    theirs = list(trained.nodes)
    our_keys = [_key(root, node) for node in ours]
    their_keys = [_key(root, node) for node in theirs]
    for block in difflib.SequenceMatcher(None, our_keys, their_keys, autojunk=False).get_matching_blocks():
        for offset in range(block.size):
            yield theirs[block.b + offset], ours[block.a + offset]


def _is_stored(node: fx.Node) -> bool:
    """Returns whether a node reads a parameter or buffer; constants that the trace made are no such thing."""
    return node.op == "get_attr" and not str(node.target).startswith("_tensor_constant")


def _key(root: nn.Module, node: fx.Node) -> str:
    """Returns a text that says what a node does and where in the code, apart from the values that it reads."""
    path = module_around(node)
    if node.op == "get_attr" and str(node.target).startswith("_tensor_constant"):
        # The numbers of constants count on, and need not be the same in both traces.
        value = getattr(root, str(node.target)).detach().cpu().contiguous()
        content = hash(value.flatten().view(torch.uint8).numpy().tobytes())
        return f"constant {path} {value.dtype} {tuple(value.shape)} {content}"
    if random_call(node) is not None:
        return f"random {path} {node.target}"
    if node.op == "output":
        return f"output {fx.map_arg(node.args, lambda _: None)}"
    return f"{node.op} {path} {node.target} {fx.map_arg((node.args, node.kwargs), lambda _: None)}"


def _differing_inputs(ours: fx.Node, theirs: fx.Node, counterparts: dict[fx.Node, fx.Node]) -> list[_Pair]:
    """Returns what a node reads in evaluation and, instead of it, in training."""
    pairs = zip(_nodes_of(ours), _nodes_of(theirs), strict=True)
    return [pair for pair in pairs if counterparts.get(pair[1]) is not pair[0]]


def _nodes_of(node: fx.Node) -> list[fx.Node]:
    """Returns the nodes that a node reads, in order and as often as it reads them."""
    call = random_call(node)
    if call is not None:
        return [call.source]
    nodes: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), nodes.append)
    return nodes


def _replace_where(user: fx.Node, pair: _Pair, layer: fx.Node, counterparts: dict[fx.Node, fx.Node]) -> None:
    """Lets a node read a layer where it reads a pair of values."""
    theirs = next(t for t, ours in counterparts.items() if ours is user)
    others = iter(_nodes_of(theirs))

    def read(node: fx.Node) -> fx.Node:
        other = next(others)
        # An earlier pair of the same node is replaced already.
        return layer if (node, other) == pair else node

    user.args, user.kwargs = fx.map_arg((user.args, user.kwargs), read)


def _common_path(nodes: list[fx.Node]) -> str:
    """Returns the name of the innermost module around all nodes."""
    parts = [module_around(node).split(".") for node in nodes]
    common = []
    for atoms in zip(*parts, strict=False):
        if len(set(atoms)) > 1:
            break
        common.append(atoms[0])
    return ".".join(common)
