"""Flattening channels together with what follows them: channel c becomes the channels c·K … c·K+K-1."""

import math
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, fx, nn

from gate2static.gates.layers import layer_class
from gate2static.gates.model import GatedModel
from gate2static.prune.physical import Emitter, Part, Pool
from gate2static.prune.rules.rule import Ids, Numbering, Rule, any_of, module_of, tensor_inputs


class Flatten(Rule):
    """(N, C, …) -> (N, C·K), written as flatten, view or reshape."""

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        tensors = tensor_inputs(node)
        known = (
            node.target in (torch.flatten, torch.reshape, "flatten", "view", "reshape")
            or layer_class(module_of(gated, node, 0)) is nn.Flatten
        )
        if not known or rules[tensors[0]].dim != 1:
            return None
        source = rules[tensors[0]]
        before, after = source.info, node.meta["info"]
        flat = (before.shape[0], math.prod(before.shape[1:])) if before.shape else ()
        if after.shape != flat or after.batch_multiple != before.batch_multiple or not before.batch_multiple:
            return None
        return cls(node, [source], after.shape[1], 1)

    def number(self, inputs: Sequence[Numbering], gated: GatedModel) -> Numbering:
        return Numbering(self._expand(inputs[0].views), inputs[0].size * self._factor)

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [any_of(need.unflatten(1, (-1, self._factor)), 2).squeeze(2)]

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        wanted = set((live // self._factor).tolist())
        parts = [
            Part(emitter.graph.call_function(torch.flatten, (p.node, 1)), self._expand(p.ids[None])[0])
            for p in emitter.pool(self.inputs[0]).parts
            if wanted.intersection(p.ids.tolist())
        ]
        return Pool(tuple(parts), 1)

    @property
    def _factor(self) -> int:
        return self.channels // self.inputs[0].channels

    def _expand(self, ids: Ids) -> Ids:
        return (ids[:, :, None] * self._factor + np.arange(self._factor)).reshape(len(ids), -1)
