"""Batch norm in eval mode: an affine map of each channel with parameters of the stream's own."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, fx, nn

from gate2static.gates.layers import layer_class
from gate2static.gates.model import GatedModel
from gate2static.prune.physical import Emitter, Part, Pool
from gate2static.prune.rules.rule import Ids, Numbering, Rule, as_channels, channels_along_output, module_of, need_of

_STATE = ("weight", "bias", "running_mean", "running_var")


class OwnNorm(Rule):
    """A batch norm; the same input channel normalised by two streams is two channels."""

    keeps_numbers = True

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        module: Any = module_of(gated, node, 0)
        if layer_class(module) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d) or module.running_mean is None:
            return None
        source = rules[node.all_input_nodes[0]]
        return cls(node, [source], channels_along_output(node, 1), 1) if source.dim in (None, 1) else None

    def number(self, inputs: Sequence[Numbering], gated: GatedModel) -> Numbering:
        views = as_channels(self.inputs[0], inputs[0], 1)
        own = np.arange(views.size).reshape(views.shape)
        if len(np.unique(views)) == views.size:
            # Every stream's channels are its own already: keep their numbers, as the layer's order relies on.
            rows = np.full((int(views.max()) + 1, 2), -1, dtype=np.int64)
            rows[views.ravel()] = np.stack([views.ravel(), own.ravel()], 1)
            return Numbering(views, len(rows), rows)
        return Numbering(own, views.size, np.stack([views.ravel(), own.ravel()], 1))

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [need_of(self.inputs[0], need)]

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        rows = emitter.numberings[self.node].rows
        assert rows is not None
        source = emitter.channel_pool(self.inputs[0], 1)
        if np.array_equal(rows[live, 0], live):
            groups = emitter.by_parts(self, source, live)
        else:
            groups = emitter.by_readers(self, emitter.order(self, live))
            groups = [ids[emitter.sorted_ids(source, rows[ids, 0])] for ids in groups]
        parts = [self._normalise(emitter.view(source, rows[ids, 0]), ids, rows, emitter) for ids in groups]
        return Pool(tuple(parts), 1)

    def _normalise(self, view: fx.Node, ids: Ids, rows: Ids, emitter: Emitter) -> Part:
        modules: list[Any] = [module_of(emitter.gated, self.node, s) for s in range(self.streams)]
        channels = torch.from_numpy(rows[ids, 1])
        kind: Any = layer_class(modules[0])
        norm = kind(len(ids), eps=modules[0].eps, affine=modules[0].affine).eval()
        norm.num_batches_tracked = None
        for name in _STATE:
            values = [getattr(m, name) for m in modules]
            if values[0] is not None:
                picked = torch.cat([v.detach() for v in values])[channels]
                setattr(norm, name, nn.Parameter(picked, requires_grad=False) if name in ("weight", "bias") else picked)
        return Part(emitter.module(self.node.name, norm, (view,)), ids)
