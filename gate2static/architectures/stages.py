"""Cuts a backbone into stages, between which architectures let tasks exchange features."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gate2static.architectures.channel_dims import channel_dims
from gate2static.architectures.places import Places, choose_cuts
from gate2static.errors import ArchitectureError, GateError
from gate2static.gates.arguments import check_backbone, check_inputs, check_values
from gate2static.graphs import copied
from gate2static.program.annotate import fake_inputs, info
from gate2static.program.calls import Call, call_of
from gate2static.program.program import trace_backbone
from gate2static.program.structures import Structure, tensors_of


@dataclass(frozen=True, kw_only=True)
class Stages:
    """A backbone as a chain of modules.

    Attributes:
        modules: The stages; each maps the values of the cut in front of it to a tuple of those behind it. Behind the
            values that the next stage works on, there may be some that it passes on.
        shapes: The shapes of what the next stage works on, behind all stages but the last, without the batch.
        channel_dims: The dimension of the channels in each of these shapes: 0 in (C, H, W).
        passed: How many values are passed on, behind each stage but the last.
        names: Names of the backbone's parameters and buffers in the stages -> their names in its `state_dict`.
        call: How the backbone is called.
        structure: What the backbone returns.
    """

    modules: nn.ModuleList
    shapes: tuple[tuple[tuple[int, ...], ...], ...]
    channel_dims: tuple[tuple[int, ...], ...]
    passed: tuple[int, ...]
    names: Mapping[str, str]
    call: Call
    structure: Structure

    def copy(self) -> nn.ModuleList:
        """Returns stages with parameters of their own."""
        return copied(self.modules)


def split(backbone: nn.Module, example_inputs: Sequence[Any] | Mapping[str, Any], places: Places = "stages") -> Stages:
    """Cuts a backbone into stages that compute what it computes.

    Args:
        backbone: Any module that torch.fx can trace; it is not changed.
        example_inputs: Its arguments, as for `gate`.
        places: Where to cut it.

    Raises:
        ArchitectureError: The backbone or its arguments are none, there is no such place, or the stages do not compute
            what the backbone computes.
        TraceError: The backbone cannot be traced.
    """
    try:
        check_backbone(backbone)
        check_inputs(example_inputs)
        check_values(tensors_of(example_inputs))
    except GateError as error:
        raise ArchitectureError(str(error)) from error
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    call, inputs = call_of(backbone, example_inputs, "the backbone")
    root, graph, _ = trace_backbone(backbone, example_inputs, fake_inputs(mode, inputs), (0,))
    nodes = list(graph.nodes)
    chosen = choose_cuts(root, nodes, places)
    output = nodes[-1]
    stages = []
    for first, last in pairwise([None, *chosen, None]):
        taken = graph.find_nodes(op="placeholder") if first is None else first.all_values
        given = tensors_of(output.args[0]) if last is None else last.all_values
        stages.append(_stage(root, taken, given))
    shapes = tuple(tuple((info(value).shape or ())[1:] for value in cut.values) for cut in chosen)
    dims = channel_dims(root, graph)
    found = Stages(
        modules=nn.ModuleList(stages),
        shapes=shapes,
        channel_dims=tuple(tuple(dims[value] - 1 for value in cut.values) for cut in chosen),
        names=_names(backbone, root),
        passed=tuple(len(cut.returned) for cut in chosen),
        call=call,
        structure=output.meta["structure"],
    )
    _check(backbone, found, inputs, call)
    return found


def _names(backbone: nn.Module, root: nn.Module) -> dict[str, str]:
    """Returns the backbone's name of everything in the traced copy that is the backbone's.

    The layers that the trace made are tied to the backbone's parameters and have names of their own.
    """
    own = backbone.state_dict().keys()
    traced = root.state_dict(keep_vars=True)
    by_tensor = {id(value): key for key, value in traced.items() if key in own}
    return {key: key if key in own else by_tensor[id(value)] for key, value in traced.items() if id(value) in by_tensor}


def _stage(root: nn.Module, taken: Iterable[fx.Node], given: Iterable[fx.Node]) -> fx.GraphModule:
    """Returns the module that computes some values of a graph from others, by the modules of `root`."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for number, node in enumerate(taken):
        copies[node] = graph.placeholder(f"value_{number}")

    def copy(node: fx.Node) -> fx.Node:
        if node not in copies:
            pending = [node]
            while pending:  # without recursion: backbones are deeper than Python's stack
                current = pending[-1]
                missing = [value for value in current.all_input_nodes if value not in copies]
                if missing:
                    pending += missing
                    continue
                pending.pop()
                if current not in copies:
                    copies[current] = graph.node_copy(current, copies.__getitem__)
        return copies[node]

    graph.output(tuple(copy(node) for node in given))
    graph.lint()
    return fx.GraphModule(root, graph, "Stage")


def _check(backbone: nn.Module, stages: Stages, inputs: tuple[Any, ...], call: Call) -> None:
    """Raises an ArchitectureError where the stages do not compute what the backbone computes."""
    plain = copied(backbone).eval()
    chain = stages.copy().eval()
    args, named = call.arguments(list(inputs))
    with torch.no_grad():
        expected = tensors_of(plain(*args, **named))
        values: Sequence[Tensor] = list(inputs)
        for stage in chain:
            values = stage(*values)
    same = all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True) for a, b in zip(values, expected, strict=True)
    )
    if not same:
        raise ArchitectureError(
            "the stages do not compute what the backbone computes; its forward probably decides on the values of its "
            "inputs, or is not deterministic in eval mode"
        )
