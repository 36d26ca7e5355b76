"""Operators that only move data: reshape, permute, slice, split, flip, roll, expand, repeat and their relatives.

Along channels they compute nothing: the views are indexed, and channels that nobody reads any more are dead. Along the
other dimensions they stay operators, applied to each physical part. What leaves a single channel, such as `x[:, :1]`,
has no rule: a dimension of size one does not show whether it carries channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, fx

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids, function_of
from gate2static.program.annotate import BATCHES, info
from gate2static.program.layer_kinds import layer_class
from gate2static.program.operators import MOVE_LAYERS, MOVES, SPLITS, TRANSPOSED_ATTRIBUTES
from gate2static.prune.analysis.channel_access import access
from gate2static.prune.analysis.need import any_reader
from gate2static.prune.analysis.nodes import function_name, module_of, tensor_inputs
from gate2static.prune.analysis.numbering import Decisions, Numbering
from gate2static.prune.analysis.rearrangement import Rearrangement, find_rearrangement
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.move_positions import move_positions
from gate2static.prune.emission.parts import Part, Parts
from gate2static.prune.rules.rule import Matches, Rule


@dataclass(frozen=True, kw_only=True, eq=False)
class Rearrange(Rule):
    """out = in, elsewhere.

    Attributes:
        moved: What moves where.
    """

    moved: Rearrangement

    @classmethod
    def match(cls, node: fx.Node, earlier: Matches) -> Self | None:
        if node.meta["info"].shape is None or (chain := _moving_chain(node, earlier.gated)) is None:
            return None
        source = earlier[chain.source]
        if source.dims is None:
            return None
        moved = _rearrangement(chain, source, earlier)
        if moved is None:
            return None
        reads = access(source, moved.source_dims)
        return cls(node=node, inputs=(reads,), channels=len(moved.channels), dims=moved.dims, moved=moved)

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        return Numbering(inputs[0].views[:, self.moved.channels], inputs[0].size)

    def need_of_inputs(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        channels = self.inputs[0].channels
        return [torch.stack([any_reader(of_stream, self.moved.channels, channels) for of_stream in need])]

    def origins(self, of_value: Numbering, inputs: Sequence[Numbering]) -> list[tuple[int, Ids]]:
        return [(0, np.arange(of_value.size))]

    def emit(self, live: Ids, emitter: Emitter) -> Parts:
        # Parts move whole: their dead channels cost less than cutting them out would.
        live_ids = set(live.tolist())
        parts = []
        for part in emitter.accessed(self.inputs[0]).parts:
            if not live_ids.isdisjoint(part.ids.tolist()):
                tensor = move_positions(emitter.graph, part.node, self.moved, len(part.ids))
                parts.append(Part(tensor, part.ids))
        return Parts(tuple(parts), self.dim)


@dataclass(frozen=True)
class _MovingChain:
    """Nodes that move one tensor: a single node, or a split and the choice of one of its results.

    Attributes:
        source: The tensor.
        steps: The nodes, in their order.
    """

    source: fx.Node
    steps: tuple[fx.Node, ...]

    def run(self, addresses: Tensor, gated: GatedModel, run: int) -> Tensor:
        """Runs the chain on the source's tensor, with sizes as they are at batch size number `run` of `BATCHES`."""
        values: dict[fx.Node, Any] = {self.source: addresses}

        def value_of(node: fx.Node) -> Any:
            return values[node] if node in values else _known_value(node, run)

        for node in self.steps:
            args = fx.map_arg(node.args, value_of)
            kwargs = fx.map_arg(node.kwargs, value_of)
            if node.op == "call_module":
                values[node] = module_of(gated, node, 0)(*args, **kwargs)  # type: ignore[misc]
            elif node.op == "call_method":
                # Addresses lie in memory in one piece; what the user's code made need not.
                name = {"view": "reshape", "view_as": "reshape_as"}.get(str(node.target), str(node.target))
                values[node] = getattr(args[0], name)(*args[1:], **kwargs)
            else:
                values[node] = function_of(node)(*args, **kwargs)
        result: Tensor = values[self.steps[-1]]
        return result


def _rearrangement(chain: _MovingChain, source: Rule, earlier: Matches) -> Rearrangement | None:
    """Returns what a chain moves where, found once for all chains that do the same."""
    before = source.info
    after = info(chain.steps[-1])
    described = [_described(node, earlier.gated) for node in chain.steps]
    key = (before.shape, source.dims, before.batch_dims, after.batch_dims, *described)
    if key not in earlier.rearrangements:
        assert source.dims is not None
        calls = [partial(chain.run, gated=earlier.gated, run=run) for run in range(len(BATCHES))]
        earlier.rearrangements[key] = find_rearrangement(calls, before, source.dims, after)
    return earlier.rearrangements[key]


def _moving_chain(node: fx.Node, gated: GatedModel) -> _MovingChain | None:
    """Returns the chain that ends in a node, or None where the node does more than moving one tensor."""
    steps = [node]
    if function_name(node) in ("getitem", "__getitem__") and info(node.args[0]).shape is None:  # type: ignore[arg-type]
        split: Any = node.args[0]
        steps.insert(0, split)
        if function_name(split) not in SPLITS:
            return None
    elif not (_moves(node) or layer_class(module_of(gated, node, 0)) in MOVE_LAYERS):
        return None
    first = steps[0]
    source: Any = first.args[0] if first.args else first.kwargs.get("input")
    if source not in tensor_inputs(first):
        return None
    # Shapes of other tensors are known; their values are not.
    reads_only_shapes = function_name(first) in ("expand_as", "view_as", "reshape_as")
    for step in steps:
        for other in step.all_input_nodes:
            is_tensor = other is not source and other not in steps and info(other).shape is not None
            if is_tensor and not reads_only_shapes:
                return None
    return _MovingChain(source, tuple(steps))


def _moves(node: fx.Node) -> bool:
    if node.target is getattr:
        return node.args[1] in TRANSPOSED_ATTRIBUTES
    return function_name(node) in MOVES


def _known_value(node: fx.Node, run: int) -> Any:
    known = info(node)
    return known.values[run] if known.shape is None else torch.empty(known.at(BATCHES[run]), device="meta")


def _described(node: fx.Node, gated: GatedModel) -> tuple[str, ...]:
    """Describes what a node does: the operator, the arguments by value, and a module by what it is."""
    arguments = fx.map_arg((node.args[1:], node.kwargs), lambda n: (info(n).shape, info(n).values))
    return node.op, str(node.target), str(arguments), str(module_of(gated, node, 0))
