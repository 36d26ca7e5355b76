"""Operators that map every channel by itself, alike for all channels.

Activations, pooling, interpolation, and what works along other dimensions, such as the softmax of attention. They run
once on each physical part, and keep its numbering. What works along a channel dimension reads the value without it: the
softmax over the channels of a head needs whole heads.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from torch import Tensor, fx, nn

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.program.layer_kinds import layer_class
from gate2static.program.operators import (
    ACTIVATION_LAYERS,
    FUNCTIONS_ALONG_DIMS,
    POINTWISE_FUNCTIONS,
    RANDOM_ACTIVATION_LAYERS,
    SOFTMAX_LAYERS,
    SPATIAL_FUNCTIONS,
    SPATIAL_LAYERS,
)
from gate2static.prune.analysis.channel_access import access
from gate2static.prune.analysis.channel_dims import axis, others
from gate2static.prune.analysis.need import any_of
from gate2static.prune.analysis.nodes import argument, function_name, module_of, tensor_inputs
from gate2static.prune.analysis.numbering import Decisions, Numbering
from gate2static.prune.emission.emitter import Emitter, detached_copy
from gate2static.prune.emission.parts import Part, Parts
from gate2static.prune.rules.rule import Matches, Rule

_ACTIVATIONS = (*ACTIVATION_LAYERS, *RANDOM_ACTIVATION_LAYERS)


@dataclass(frozen=True, kw_only=True, eq=False)
class UnaryMap(Rule):
    """out[c] = f(in[c]) with one f for all channels and streams.

    Attributes:
        along: The dimensions that the operator works along; None where it does not name any.
    """

    along: tuple[int, ...] | None

    @classmethod
    def match(cls, node: fx.Node, earlier: Matches) -> Self | None:
        tensors = tensor_inputs(node)
        after = node.meta["info"]
        if len(tensors) != 1 or earlier[tensors[0]].dims is None or after.shape is None:
            return None
        source = earlier[tensors[0]]
        module = module_of(earlier.gated, node, 0)
        along = _dims_along(node, module, len(source.shape))
        if along is None:
            if not _is_channelwise(node, source, module):
                return None
        elif set(along) & set(source.info.batch_dims):
            return None
        dims = tuple(d for d in source.dims or () if d not in (along or ()))
        if not dims:
            return None
        value = access(source, dims)
        # A reduction may leave out the dimensions that it works along.
        left_out = along if along is not None and len(after.shape) != len(value.shape) else ()
        sizes = [access(earlier[n]) for n in node.all_input_nodes if n is not source.node]
        return cls(
            node=node,
            inputs=(value, *sizes),
            channels=value.channels,
            dims=tuple(d - sum(gone < d for gone in left_out) for d in dims),
            along=along,
        )

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        return inputs[0]

    def need_of_inputs(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [need, *(any_of(need, 1) for _ in self.inputs[1:])]

    def origins(self, of_value: Numbering, inputs: Sequence[Numbering]) -> list[tuple[int, Ids]]:
        return [(0, np.arange(of_value.size))]

    def emit(self, live: Ids, emitter: Emitter) -> Parts:
        source = emitter.accessed(self.inputs[0])
        # Sizes read from tensors are the same for all streams: one of them is emitted.
        sizes = {reads.node: emitter.canonical(reads.value, 0) for reads in self.inputs[1:]}
        parts = []
        for ids in emitter.arrangement.by_parts(self, source, live):
            parts.append(Part(self._call(emitter.view(source, ids), sizes, emitter), ids))
        return Parts(tuple(parts), self.dim)

    def _call(self, view: fx.Node, sizes: dict[fx.Node, Any], emitter: Emitter) -> fx.Node:
        """Emits the operator on a physical tensor."""
        source = self.inputs[0]
        replacements = {**sizes, source.node: view}
        if len(source.dims) == 1:
            return emitter.call_like(self, 0, replacements)
        if self.along is None:
            call = emitter.call_like(self, 0, replacements)
            # A physical tensor has fewer dimensions than the memory format was meant for.
            call.kwargs = {k: v for k, v in call.kwargs.items() if k != "memory_format"}
            return call
        # The dimensions of a physical tensor, by their canonical number; -1 is that of the channels.
        labels = others(len(source.shape), source.dims)
        labels.insert(axis(source.dims), -1)
        along: Any = [labels.index(d) for d in self.along]
        along = along if len(along) > 1 else along[0]
        if self.node.op == "call_module":
            softmax: Any = detached_copy(emitter.gated, self.node, 0)
            softmax.dim = along
            return emitter.module(self.node, softmax, (view,), streams=())
        call = emitter.call_like(self, 0, replacements)
        position = FUNCTIONS_ALONG_DIMS[function_name(self.node)]
        if len(call.args) > position:
            call.update_arg(position, along)
        else:
            call.kwargs = {**call.kwargs, "dim": along}
        return call


def _dims_along(node: fx.Node, module: nn.Module | None, ndim: int) -> tuple[int, ...] | None:
    """Returns the dimensions that a reduction, a softmax or the like works along; None for other operators."""
    name = function_name(node)
    if layer_class(module) in SOFTMAX_LAYERS:
        dims: Any = module.dim  # type: ignore[union-attr]
    elif name in FUNCTIONS_ALONG_DIMS:
        dims = argument(node, FUNCTIONS_ALONG_DIMS[name], "dim", 1 if name == "normalize" else None)
    else:
        return None
    if dims is None or dims in ((), []):
        return tuple(range(ndim))
    listed = dims if isinstance(dims, list | tuple) else [dims]
    return tuple(sorted({d % ndim for d in listed}))


def _is_channelwise(node: fx.Node, source: Rule, module: nn.Module | None) -> bool:
    """Returns whether an operator that names no dimensions is known to keep channels apart."""
    before = source.shape
    after = node.meta["info"].shape
    if node.op == "call_module":
        kind = layer_class(module)
        return kind in _ACTIVATIONS or (kind in SPATIAL_LAYERS and _spares_channels(kind.__name__, source, after))
    name = function_name(node)
    if name in POINTWISE_FUNCTIONS:
        return tuple(before) == tuple(after)
    if name in SPATIAL_FUNCTIONS:
        return _spares_channels(name, source, after)
    if source.dims is None or len(source.dims) > 1:
        return False
    if name == "pad":
        # Two widths per dimension, the last dimension first.
        widths = list(argument(node, 1, "pad"))
        padded = {len(before) - 1 - i // 2 for i, width in enumerate(widths) if width != 0}
        return not padded.intersection(source.dims)
    # The method makes windows of another dimension; the function of the same name makes channels of them.
    is_windows = node.op == "call_method" and name == "unfold"
    return is_windows and argument(node, 1, "dimension") % len(before) not in source.dims


def _spares_channels(name: str, source: Rule, after: Sequence[int]) -> bool:
    """Returns whether a spatial operator, which may be one of `1d`, `2d` or `3d`, has no channels in its window."""
    before = source.shape
    spatial = re.search(r"([123])d$", name)
    ndim = int(spatial[1]) + 2 if spatial else len(before)
    return source.dims == (1,) and len(before) == len(after) == ndim
