"""Operators on tensors that line up channel for channel: sums, products, choices, and joins along other dimensions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, fx

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.program.operators import ELEMENTWISE_FUNCTIONS, ELEMENTWISE_METHODS
from gate2static.prune.analysis.channel_access import ChannelAccess, access, access_broadcast
from gate2static.prune.analysis.channel_dims import Dims, axis, count, others, permuted
from gate2static.prune.analysis.need import any_reader
from gate2static.prune.analysis.nodes import argument, function_name, tensor_inputs
from gate2static.prune.analysis.numbering import Decisions, Numbering, unique_rows
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Parts
from gate2static.prune.rules.rule import Matches, Rule


@dataclass(frozen=True, kw_only=True, eq=False)
class BroadcastMap(Rule):
    """f(a, b, …)[c] = f(a[c], b[c], …); an operand may be broadcast along any channel dimension.

    The inputs are the operands, then what the node reads besides, such as sizes. The sources of the pool channels are
    the operands' channels, one column per operand.

    Attributes:
        channels_of: For each operand: (C,) its channel, as it is read, for each channel of the result.
        joined: The dimension along which the operands stand one behind the other; None for element-wise operators.
    """

    channels_of: tuple[Ids, ...]
    joined: int | None

    @classmethod
    def match(cls, node: fx.Node, earlier: Matches) -> Self | None:
        tensors = tensor_inputs(node)
        operands = [earlier[tensor] for tensor in tensors]
        shape = node.meta["info"].shape
        if not _is_known(node) or shape is None or not any(r.dims for r in operands):
            return None
        # The value of masked_fill has no dimensions, so streams with values of their own cannot run together.
        if function_name(node) == "masked_fill" and len(operands) > 2:
            return None
        # The finest layout of all; the other operands are read along it.
        layouts = [tuple(d + len(shape) - len(r.shape) for d in r.dims) for r in operands if r.dims]
        dims = max(layouts, key=lambda layout: count(shape, layout))
        joined = _joined_dim(node)
        if joined in dims or set(dims) & set(node.meta["info"].batch_dims):
            return None
        if not all(_lines_up(r.shape, shape, dims) for r in operands):
            return None
        # Operands first: `channels_of` says which of the inputs they are.
        accesses = [access_broadcast(r, shape, dims, dims) for r in operands]
        sizes = [access(earlier[n]) for n in node.all_input_nodes if n not in tensors]
        return cls(
            node=node,
            inputs=(*(reads for reads, _ in accesses), *sizes),
            channels=count(shape, dims),
            dims=dims,
            channels_of=tuple(channels for _, channels in accesses),
            joined=joined,
        )

    @property
    def _operands(self) -> tuple[ChannelAccess, ...]:
        return self.inputs[: len(self.channels_of)]

    @property
    def _sizes(self) -> tuple[ChannelAccess, ...]:
        return self.inputs[len(self.channels_of) :]

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        columns = [n.views[:, channels] for n, channels in zip(inputs, self.channels_of, strict=False)]
        return unique_rows(np.stack(columns, 2))  # (S, C, operands)

    def need_of_inputs(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        needs = []
        for operand, channels in zip(self._operands, self.channels_of, strict=True):
            if operand.channels == self.channels:
                needs.append(need)
            else:
                needs.append(torch.stack([any_reader(of_stream, channels, operand.channels) for of_stream in need]))
        # (S, 1) A stream that needs any channel needs the sizes.
        streams = np.arange(self.streams).repeat(self.channels)
        any_channel = any_reader(need, streams, self.streams)[:, None]
        return [*needs, *(any_channel for _ in self._sizes)]

    def origins(self, of_value: Numbering, inputs: Sequence[Numbering]) -> list[tuple[int, Ids]]:
        assert of_value.sources is not None
        return [(i, of_value.sources[:, i]) for i in range(len(self.channels_of))]

    def emit(self, live: Ids, emitter: Emitter) -> Parts:
        sources = emitter.numberings[self.node].sources
        assert sources is not None
        arrangement = emitter.arrangement
        if arrangement.layout.share_work or self.streams == 1:
            groups = self._split(arrangement.order(self, live), sources, emitter)
        else:
            groups = arrangement.by_streams(self)
        return Parts(tuple(self._part(ids, sources, emitter) for ids in groups), self.dim)

    def _split(self, live: Ids, sources: Ids, emitter: Emitter) -> list[Ids]:
        """Keeps channels of one set of readers apart where every operand already holds them as one tensor."""
        arrangement = emitter.arrangement
        has_blocks = self.node in arrangement.blocks
        pieces = arrangement.in_blocks(self, live) if has_blocks else arrangement.by_readers(self, live)
        apart: list[Ids] = []
        together: list[Ids] = []
        for ids in pieces:
            held = (emitter.accessed(r).hold_as_one(sources[ids, column]) for column, r in enumerate(self._operands))
            (apart if all(held) else together).append(ids)
        return [*apart, np.concatenate(together)] if together else apart

    def _part(self, ids: Ids, sources: Ids, emitter: Emitter) -> Part:
        """Emits the operator on the channels `ids`."""
        replacements: dict[fx.Node, Any] = {}
        for column, operand in enumerate(self._operands):
            replacements[operand.node] = self._operand(operand, sources[ids, column], emitter)
        for size in self._sizes:
            replacements[size.node] = emitter.canonical(size.value, 0)
        if self.joined is None:
            return Part(emitter.call_like(self, 0, replacements), ids)
        assert self.dims is not None
        # The dimensions of a physical tensor, by their canonical number; -1 is that of the channels.
        labels = others(len(self.shape), self.dims)
        labels.insert(self.dim, -1)
        tensors = [replacements[n] for n in argument(self.node, 0, "tensors")]
        return Part(emitter.graph.call_function(torch.cat, (tensors, labels.index(self.joined))), ids)

    def _operand(self, operand: ChannelAccess, ids: Ids, emitter: Emitter) -> fx.Node:
        """Emits the channels `ids` of an operand, aligned with the result."""
        parts = emitter.accessed(operand)
        is_one_channel = len(np.unique(ids)) == 1
        if not operand.dims:
            # Nothing to pick: the whole value, which may differ from stream to stream.
            if not is_one_channel:
                return self._repeated(parts, ids, operand, emitter)
            return self._aligned(parts.whole(int(ids[0])), operand, emitter)
        if operand.channels == 1 and is_one_channel:
            ids = ids[:1]
        return self._aligned(emitter.view(parts, ids), operand, emitter)

    def _repeated(self, parts: Parts, ids: Ids, operand: ChannelAccess, emitter: Emitter) -> fx.Node:
        """Emits a value that is broadcast along the channels but differs between streams: one copy per channel."""
        aligned = []
        for value in np.unique(ids).tolist():
            tensor = self._aligned(parts.whole(value), operand, emitter, all_dims=True)
            aligned.append(Part(tensor, np.array([value])))
        return emitter.view(Parts(tuple(aligned), self.dim), ids)

    def _aligned(self, tensor: fx.Node, operand: ChannelAccess, emitter: Emitter, all_dims: bool = False) -> fx.Node:
        """Emits an operand's physical tensor with its dimensions where those of the result's are.

        Args:
            tensor: The operand's tensor.
            operand: How it is read.
            emitter: The network under construction.
            all_dims: Whether it needs all dimensions of the result; leading ones are left to broadcasting otherwise.
        """
        assert self.dims is not None
        graph = emitter.graph
        if not operand.shape and not all_dims:
            return tensor
        ndim = len(self.shape)
        offset = ndim - len(operand.shape)
        # The dimensions of the tensor, by their number in the result; -1 is that of the channels.
        labels: list[int] = [d + offset for d in others(len(operand.shape), operand.dims)]
        if operand.dims:
            labels.insert(axis(operand.dims), -1)
        # A dimension of size 1 where the result has channels: dropped where the operand's channels stand for it, or
        # taken for that of the channels where it is the only one.
        for label in reversed(labels):
            if label in self.dims and (len(self.dims) > 1 or operand.dims):
                tensor = graph.call_function(torch.squeeze, (tensor, labels.index(label)))
                labels.remove(label)
            elif label in self.dims:
                labels[labels.index(label)] = -1
        wanted: list[int] = others(ndim, self.dims)
        wanted.insert(self.dim, -1)
        tensor = permuted(graph, tensor, [labels.index(label) for label in wanted if label in labels])
        first = 0
        if not all_dims:
            first = next((i for i, label in enumerate(wanted) if label in labels), 0)
        for position in range(first, ndim - len(self.dims) + 1):
            if wanted[position] not in labels:
                tensor = graph.call_function(torch.unsqueeze, (tensor, position - first))
        return tensor


def _lines_up(operand: Sequence[int], shape: Sequence[int], dims: Dims) -> bool:
    """Returns whether an operand has one channel or all of them along each channel dimension of the result."""
    offset = len(shape) - len(operand)
    return all(d < offset or operand[d - offset] in (1, shape[d]) for d in dims)


def _is_known(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in ELEMENTWISE_METHODS
    return node.op == "call_function" and (node.target in ELEMENTWISE_FUNCTIONS or node.target is torch.cat)


def _joined_dim(node: fx.Node) -> int | None:
    """Returns the dimension along which a node concatenates; None for element-wise operators."""
    if node.target is not torch.cat:
        return None
    return int(argument(node, 1, "dim", 0) % len(node.meta["info"].shape))
