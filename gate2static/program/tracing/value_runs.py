"""Values of nodes of a graph that is still being recorded, from runs on fake tensors at two batch sizes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gate2static.graphs import function_of, quiet
from gate2static.program.annotate import BATCHES, fake_inputs

UNKNOWN = object()
"""The value of a node that does not run on fake tensors."""


class ValueRuns:
    """Two runs of a graph, as far as values were asked for.

    Args:
        inputs: The tensors of the example inputs, in the order of the placeholders.

    Attributes:
        are_running: Whether nodes run at this moment.
    """

    def __init__(self, inputs: tuple[Any, ...]) -> None:
        self.are_running = False
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        at = fake_inputs(self._mode, inputs)
        self._placeholders = {batch: at(batch) for batch in BATCHES}
        self._values: dict[fx.Node, tuple[Any, ...]] = {}

    def values(self, node: fx.Node, root: nn.Module) -> tuple[Any, ...]:
        """Returns the value of a node at each of `BATCHES`; `UNKNOWN` where it does not run on fake tensors.

        Args:
            node: The node, in a graph that is still being recorded.
            root: The owner of the modules and tensors that the graph names.
        """
        missing = self._missing(node)
        with self.running(), torch.no_grad(), quiet():
            # The graph's order: inputs before what reads them.
            for n in node.graph.nodes:
                if n in missing:
                    self._values[n] = tuple(self._evaluate(n, root, run) for run in range(len(BATCHES)))
        return self._values[node]

    def forget(self, node: fx.Node) -> None:
        """Lets a node run again when its value is asked for next."""
        self._values.pop(node, None)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Tells the tracer that modules and functions are called now, and not recorded."""
        self.are_running = True
        try:
            yield
        finally:
            self.are_running = False

    def _missing(self, node: fx.Node) -> set[fx.Node]:
        """Returns the nodes that must be evaluated for a node's value.

        These are the node and all that its value comes from, unless their values are known already.
        """
        missing = set() if node in self._values else {node}
        unseen = [node]
        while unseen:
            inputs = unseen.pop().all_input_nodes
            new = [n for n in inputs if n not in missing and n not in self._values]
            missing.update(new)
            unseen.extend(new)
        return missing

    def _evaluate(self, node: fx.Node, root: nn.Module, run: int) -> Any:
        """Returns the value of a node in one run, given the values of its inputs.

        Args:
            node: The node to evaluate.
            root: The owner of what the graph names.
            run: The run at batch size `BATCHES[run]`.

        Returns:
            The value, or `UNKNOWN` where the node or one of its inputs does not run on fake tensors.
        """
        if node.op == "placeholder":
            leaves = self._placeholders[BATCHES[run]]
            position = [*node.graph.find_nodes(op="placeholder")].index(node)
            return leaves[position] if position < len(leaves) else UNKNOWN
        if any(self._values[n][run] is UNKNOWN for n in node.all_input_nodes):
            return UNKNOWN
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self._values[n][run])
        try:
            with self._mode:
                return _as_function(node, root)(*args, **kwargs)
        except Exception:  # noqa: BLE001  # an unknown value raises where it is needed, and only there
            return UNKNOWN


def _as_function(node: fx.Node, root: nn.Module) -> Callable[..., Any]:
    """Returns a node as a function of its arguments."""
    if node.op == "call_function":
        return function_of(node)
    if node.op == "call_method":
        return lambda owner, *args, **kwargs: getattr(owner, str(node.target))(*args, **kwargs)
    value: Any = root
    for atom in str(node.target).split("."):
        value = getattr(value, atom)
    return value if node.op == "call_module" else lambda: value
