"""What a forward decided on sizes while it was traced, so that other sizes can be told from those it fits.

A trace follows `if x.shape[2] % 32:` as it went for the example inputs, and takes `int(x.shape[2] * scale)` as the
number that it was. At another size the traced network would silently compute something else. So the nodes that the
decisions came from are kept, and run again, on tensors without content, for every size that is new.
"""

import contextlib
import copy
import operator
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from gate2static.errors import GateError
from gate2static.graphs import quiet

NOT_THEIRS = (str(Path(torch.__file__).parent), str(Path(__file__).parent), contextlib.__file__)
"""Folders whose files are not the user's code."""
_BATCH = 2

Shapes = tuple[tuple[int, ...], ...]
"""The shapes of all inputs, without the batch."""


@dataclass(frozen=True)
class Decision:
    """One value of a size that Python needed.

    Attributes:
        line: The line of the user's code.
        is_length: Whether only the length of the value was needed.
    """

    line: str
    is_length: bool


def user_line() -> str:
    """Returns the innermost line of the user's code that is running."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith((*NOT_THEIRS, "<")):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


@dataclass(frozen=True)
class SizeDecisions:
    """The decisions of one traced network.

    Attributes:
        root: The modules that the decisions came through, without content.
        graph: Computes the values that were decided on, from the inputs.
        decisions: The decisions, in the order of the graph's outputs.
        dtypes: The types of the inputs.
        device: The device that the inputs lay on.
        traced: The shapes of the example inputs.
        accepted: The shapes for which all is decided as it was for the example inputs.
    """

    root: nn.Module
    graph: fx.Graph
    decisions: tuple[Decision, ...]
    dtypes: tuple[torch.dtype, ...]
    device: torch.device
    traced: Shapes
    accepted: set[Shapes] = field(default_factory=set)

    def check(self, inputs: Sequence[Any]) -> None:
        """Refuses inputs of sizes for which the forward decides otherwise than it did for the example inputs.

        Args:
            inputs: The leaves of the inputs, batch first.

        Raises:
            GateError: The traced network would compute something else; the message names the line.
        """
        if not all(isinstance(x, Tensor) for x in inputs):
            return  # the network says what it takes
        shapes = tuple(tuple(x.shape[1:]) for x in inputs)
        if shapes not in self.accepted:
            self._accept(shapes)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch does not annotate it
    def _accept(self, shapes: Shapes) -> None:
        line = self.first_difference(shapes)
        if line is not None:
            raise GateError(
                f"the network was gated for inputs of shape {_words(self.traced)}, and its forward decides on their "
                f"size (at {line}): for {_words(shapes)} it would compute something else than was gated. Gate it with "
                "example inputs of that size, `gate(...)`, and load the weights with `load_state_dict`; or resize the "
                "inputs."
            )
        self.accepted.add(shapes)

    def first_difference(self, shapes: Shapes) -> str | None:
        """Returns the first line that decides otherwise for inputs of these shapes, or that does not run on them."""
        traced = self.values(self.traced)
        try:
            values = self.values(shapes)
        except Exception:  # noqa: BLE001  # user code may do anything
            return self.decisions[0].line
        return next(
            (d.line for d, a, b in zip(self.decisions, traced, values, strict=True) if _needed(d, a) != _needed(d, b)),
            None,
        )

    def values(self, shapes: Shapes) -> tuple[Any, ...]:
        """Returns the values that were decided on, for inputs of these shapes.

        Raises:
            Exception: Whatever the user's code raises on them.
        """
        (output,) = self.graph.find_nodes(op="output")
        values = self.all_values(shapes)
        return tuple(values[node] for node in output.args[0])

    def all_values(self, shapes: Shapes) -> Mapping[fx.Node, Any]:
        """Returns node -> its value, as fake tensors and numbers; see `values`."""
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        with mode, torch.no_grad(), quiet():
            memo: dict[int, Any] = {}
            for tensor in chain(self.root.parameters(), self.root.buffers()):
                fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=self.device)
                memo[id(tensor)] = nn.Parameter(fake, False) if isinstance(tensor, nn.Parameter) else fake
            inputs = [
                torch.empty((_BATCH, *shape), dtype=dtype, device=self.device)
                for shape, dtype in zip(shapes, self.dtypes, strict=True)
            ]
            runner = fx.Interpreter(copy.deepcopy(self.root, memo), graph=self.graph, garbage_collect_values=False)
            runner.run(*inputs)
        return runner.env

    def size_dependent_line(self, others: Sequence[Shapes]) -> str | None:
        """Returns the first line that decides on what differs for other sizes, whether or not it decides alike.

        Args:
            others: Shapes to compare with those of the example inputs; those that the network does not run on are
                left out.
        """
        runs = [self.all_values(self.traced)]
        for shapes in others:
            # User code may raise anything for a size that it does not take.
            with contextlib.suppress(Exception):
                runs.append(self.all_values(shapes))
        (output,) = self.graph.find_nodes(op="output")
        for decision, node in zip(self.decisions, output.args[0], strict=True):
            values = [_needed(decision, run[node]) for run in runs]
            differs = any(value != values[0] for value in values)
            if differs or (not decision.is_length and _reads_a_size(node, runs)):
                return decision.line
        return None


def decisions_of(
    decided: Mapping[tuple[fx.Node, bool], str], root: nn.Module, examples: Sequence[Tensor]
) -> SizeDecisions | None:
    """Collects the decisions of a trace.

    Args:
        decided: Node whose value Python needed, and whether only its length -> the line that needed it.
        root: The traced module, as its graph names it.
        examples: The leaves of the example inputs.

    Returns:
        The decisions on sizes of tensors. None where there are none.
    """
    nodes = [node for node, _ in decided]
    if not nodes or not all(isinstance(x, Tensor) for x in examples):
        return None
    needed = set(nodes)
    unseen = list(nodes)
    while unseen:
        new = [n for n in unseen.pop().all_input_nodes if n not in needed]
        needed.update(new)
        unseen.extend(new)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    placeholders = 0
    for node in nodes[0].graph.nodes:
        is_input = node.op == "placeholder"
        placeholders += is_input
        if node in needed or (is_input and placeholders <= len(examples)):
            if is_input and placeholders > len(examples):
                return None  # an argument that keeps its default and is a tensor
            copies[node] = graph.node_copy(node, copies.__getitem__)
            copies[node].meta = {}
    graph.output(tuple(copies[node] for node in nodes))
    memo: dict[int, Any] = {}
    for tensor in chain(root.parameters(), root.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
    used = nn.Module()
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            _share(root, used, str(node.target))
    traced = tuple(tuple(x.shape[1:]) for x in examples)
    return SizeDecisions(
        root=copy.deepcopy(used, memo),
        graph=graph,
        decisions=tuple(Decision(line, is_length) for (_, is_length), line in decided.items()),
        dtypes=tuple(x.dtype for x in examples),
        device=examples[0].device,
        traced=traced,
        accepted={traced},
    )


def _share(root: nn.Module, used: nn.Module, path: str) -> None:
    """Gives a module what a path names in another one."""
    *parents, name = path.split(".")
    for parent in parents:
        root = getattr(root, parent)
        if parent not in used._modules:
            used.add_module(parent, nn.Module())
        used = getattr(used, parent)
    if not hasattr(used, name):
        setattr(used, name, getattr(root, name))


def _needed(decision: Decision, value: Any) -> Any:
    return len(value) if decision.is_length else value


def _reads_a_size(node: fx.Node, runs: Sequence[Mapping[fx.Node, Any]]) -> bool:
    """Returns whether a number comes from numbers that differ between runs, although it may not differ itself."""
    if node.target is operator.getitem:
        return False  # one size of several; it was compared itself
    for source in node.all_input_nodes:
        values = [run[source] for run in runs]
        if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(values[0])):
            continue
        if any(value != values[0] for value in values) or _reads_a_size(source, runs):
            return True
    return False


def _words(shapes: Shapes) -> str:
    return ", ".join(f"(batch, {', '.join(map(str, shape))})" for shape in shapes)
