"""Operators that only move data: reshape, permute, slice, split, flip, roll, expand, repeat and their relatives.

Along channels they compute nothing: the views are indexed, and channels that nobody reads any more are dead. Along the
other dimensions they stay operators, applied to each physical part.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, fx, nn

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids, function_of
from gate2static.program.annotate import BATCHES, info
from gate2static.program.layer_kinds import layer_class
from gate2static.prune.analysis.channel_access import read
from gate2static.prune.analysis.nodes import function_name, module_of, tensor_inputs
from gate2static.prune.analysis.numbering import Decisions, Numbering, any_reader
from gate2static.prune.analysis.rearrangement import Movement, emit_rest, movement
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Pool
from gate2static.prune.rules.rule import Rule

_MOVES = {
    "reshape", "view", "view_as", "reshape_as", "flatten", "ravel", "unflatten", "permute", "transpose", "movedim",
    "t", "squeeze", "unsqueeze", "select", "narrow", "getitem", "flip", "roll", "rot90", "expand", "expand_as",
    "broadcast_to", "repeat", "repeat_interleave", "tile", "diagonal", "__getitem__",
}  # fmt: skip
_SPLITS = {"chunk", "split", "split_with_sizes", "tensor_split", "unbind", "hsplit", "vsplit", "dsplit"}
_LAYERS = (nn.Flatten, nn.Unflatten)
_TRANSPOSES = {"T", "mT"}


class Rearrange(Rule):
    """out = in, elsewhere."""

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        found = _steps(node, gated)
        if found is None or node.meta["info"].shape is None:
            return None
        source, steps = found
        rule = rules[source]
        if rule.dims is None:
            return None
        before, after = info(source), info(node)
        key = (before.shape, rule.dims, before.batch_dims, after.batch_dims, *(_described(n, gated) for n in steps))
        if key not in _KNOWN:
            calls = [_Call(steps, source, gated, run) for run in range(len(BATCHES))]
            _KNOWN[key] = movement(calls, before, rule.dims, after)
        moved = _KNOWN[key]
        if moved is None:
            return None
        made = cls(node, [read(rule, moved.source)], len(moved.channels), moved.dims)
        made.moved = moved
        return made

    moved: Movement
    """What moves where."""

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        return Numbering(inputs[0].views[:, self.moved.channels], inputs[0].size)

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        channels = self.inputs[0].channels
        return [torch.stack([any_reader(row, self.moved.channels, channels) for row in need])]

    def origins(self, own: Numbering, inputs: Sequence[Numbering]) -> list[tuple[int, Ids]]:
        return [(0, np.arange(own.size))]

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        wanted = set(live.tolist())
        parts = [
            Part(emit_rest(emitter.graph, p.node, self.moved, len(p.ids)), p.ids)
            for p in emitter.pool(self.inputs[0]).parts
            if not wanted.isdisjoint(p.ids.tolist())
        ]
        return Pool(tuple(parts), self.dim)


_KNOWN: dict[Any, Movement | None] = {}
"""What was found before: blocks of a network repeat each other."""


class _Call:
    """A chain of nodes as a function of the first one's tensor, at one of `BATCHES`."""

    def __init__(self, steps: Sequence[fx.Node], source: fx.Node, gated: GatedModel, run: int) -> None:
        self.steps, self.source, self.gated, self.run = steps, source, gated, run

    def __call__(self, addresses: Tensor) -> Tensor:
        env: dict[fx.Node, Any] = {self.source: addresses}
        for node in self.steps:
            args, kwargs = (self._known(a, env) for a in (node.args, node.kwargs))
            if node.op == "call_module":
                env[node] = module_of(self.gated, node, 0)(*args, **kwargs)  # type: ignore[misc]
            elif node.op == "call_method":
                # Addresses lie in memory in one piece; what the user's code made need not.
                name = {"view": "reshape", "view_as": "reshape_as"}.get(str(node.target), str(node.target))
                env[node] = getattr(args[0], name)(*args[1:], **kwargs)
            else:
                env[node] = function_of(node)(*args, **kwargs)
        result: Tensor = env[self.steps[-1]]
        return result

    def _known(self, arguments: Any, env: Mapping[fx.Node, Any]) -> Any:
        return fx.map_arg(arguments, lambda n: env[n] if n in env else _value(n, self.run))


def _steps(node: fx.Node, gated: GatedModel) -> tuple[fx.Node, list[fx.Node]] | None:
    """The tensor that a node moves, and the nodes that do it: one, or a split and the choice of one of its results."""
    steps = [node]
    if function_name(node) in ("getitem", "__getitem__") and info(node.args[0]).shape is None:  # type: ignore[arg-type]
        steps.insert(0, node.args[0])  # type: ignore[arg-type]
        if function_name(steps[0]) not in _SPLITS:
            return None
    elif not (_moves(node) or layer_class(module_of(gated, node, 0)) in _LAYERS):
        return None
    sources = tensor_inputs(steps[0])
    source = steps[0].args[0] if steps[0].args else steps[0].kwargs.get("input")
    others = [n for s in steps for n in s.all_input_nodes if n is not source and n not in steps]
    # Shapes of other tensors are known; their values are not.
    only_shapes = function_name(steps[0]) in ("expand_as", "view_as", "reshape_as")
    if source not in sources or any(info(n).shape is not None and not only_shapes for n in others):
        return None
    return source, steps  # type: ignore[return-value]


def _moves(node: fx.Node) -> bool:
    if node.target is getattr:
        return node.args[1] in _TRANSPOSES
    return function_name(node) in _MOVES


def _value(node: fx.Node, run: int) -> Any:
    known = info(node)
    return known.values[run] if known.shape is None else torch.empty(known.at(BATCHES[run]), device="meta")


def _described(node: fx.Node, gated: GatedModel) -> tuple[str, ...]:
    """What a node does: the operator, the arguments by value, and a module by what it is."""
    arguments = fx.map_arg((node.args[1:], node.kwargs), lambda n: (info(n).shape, info(n).values))
    return node.op, str(node.target), str(arguments), str(module_of(gated, node, 0))
