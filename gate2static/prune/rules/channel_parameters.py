"""Layers that map every channel by itself with parameters of its own.

Batch norm in eval mode, depth-wise convolution, instance norm, PReLU. The same input channel mapped by two streams is
two channels, but by a fixed filter, which is the same in all streams.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, fx, nn

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.program.layer_kinds import layer_class
from gate2static.prune.analysis.channel_access import read
from gate2static.prune.analysis.nodes import module_of
from gate2static.prune.analysis.numbering import Decisions, Numbering, any_reader, own_channels, unique_rows
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Pool
from gate2static.prune.emission.slicing import picked, tensors_of, with_tensors
from gate2static.prune.rules.dense import CONVOLUTIONS, weight_layer_dim
from gate2static.prune.rules.rule import Rule

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


class PerChannel(Rule):
    """out[c] = f_c(in[c]), f_c of the stream's own."""

    keeps_numbers = True

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        module: Any = module_of(gated, node, 0)
        shape = node.meta["info"].shape
        if shape is None or len(shape) < 2 or not _is_per_channel(node, module, gated):
            return None
        rule = cls(node, [read(rules[node.all_input_nodes[0]], (1,))], shape[1], (1,))
        rule.shares_work = _is_fixed([module_of(gated, node, s) for s in range(rule.streams)])
        return rule

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        views = inputs[0].views
        own = own_channels(*views.shape).views
        if len(np.unique(views)) == views.size:
            # Every stream's channels are its own already: keep their numbers, as the layer's order relies on.
            rows = np.full((int(views.max()) + 1, 2), -1, dtype=np.int64)
            rows[views.ravel()] = np.stack([views.ravel(), own.ravel()], 1)
            return Numbering(views, len(rows), rows)
        if self.shares_work:
            return unique_rows(np.stack([views, own % self.channels], 2))
        return Numbering(own, views.size, np.stack([views.ravel(), own.ravel()], 1))

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [need]

    def macs(self, need: Tensor, numbering: Numbering | None) -> Tensor:
        if self.shares_work and self.info.macs:
            assert numbering is not None
            need = any_reader(need, numbering.views, numbering.size)
        return need.sum() * (self.info.macs // self.channels)

    def origins(self, own: Numbering, inputs: Sequence[Numbering]) -> list[tuple[int, Ids]]:
        assert own.rows is not None
        return [(0, own.rows[:, 0])]

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        rows = emitter.numberings[self.node].rows
        assert rows is not None
        source = emitter.pool(self.inputs[0])
        # Parts of streams that are put together overlap; what has MACs runs once a channel.
        apart = emitter.lowering.share_elementwise or not self.info.macs
        if apart and np.array_equal(rows[live, 0], live):
            groups = emitter.by_parts(self, source, live)
        else:
            groups = emitter.by_readers(self, emitter.order(self, live))
            groups = [ids[emitter.sorted_ids(source, rows[ids, 0])] for ids in groups]
        parts = [Part(self._call(emitter.view(source, rows[ids, 0]), rows[ids, 1], emitter), ids) for ids in groups]
        return Pool(tuple(parts), 1)

    def _call(self, view: fx.Node, own: Ids, emitter: Emitter) -> fx.Node:
        layers: list[Any] = [module_of(emitter.gated, self.node, s) for s in range(self.streams)]
        owners, channels = np.divmod(own, self.channels)
        tensors = {
            name: picked(layers, name, owners, channels if len(t) > 1 else np.zeros_like(channels))
            for name, t in tensors_of(layers[0]).items()
        }
        names = ("num_features", "num_parameters", "in_channels", "out_channels", "groups")
        settings = {name: len(own) for name in names if hasattr(layers[0], name)}
        return emitter.module(self.node, with_tensors(layers[0], tensors, **settings), (view,))


def _is_fixed(layers: Sequence[Any]) -> bool:
    """Whether all streams have the same filter, which is not trained."""
    first = tensors_of(layers[0])
    equal = all(torch.equal(t, tensors_of(other)[name]) for other in layers[1:] for name, t in first.items())
    return not any(True for _ in layers[0].parameters()) and equal


def _is_per_channel(node: fx.Node, module: Any, gated: GatedModel) -> bool:
    kind = layer_class(module)
    if kind in CONVOLUTIONS:
        depthwise = module.groups == module.in_channels == module.out_channels > 1
        return depthwise and weight_layer_dim(node, gated) == 1
    if kind in _BATCH_NORMS:
        return module.running_mean is not None
    if kind in _INSTANCE_NORMS:
        batched = len(node.meta["info"].shape) == 3 + _INSTANCE_NORMS.index(kind)
        return batched and bool(tensors_of(module))
    return kind is nn.PReLU
