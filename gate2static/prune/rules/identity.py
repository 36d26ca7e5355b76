"""Identities, and layers that are one in eval mode: dropout, stochastic depth, and what is done in training alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, fx, nn

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.program.layer_kinds import has_own_forward, layer_class
from gate2static.program.rewrites.in_training import InTraining
from gate2static.prune.analysis.channel_access import Same
from gate2static.prune.analysis.nodes import module_of
from gate2static.prune.analysis.numbering import Decisions, Numbering
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Parts
from gate2static.prune.emission.training_mode import CHANNEL_DROPOUT, NUMBER_DROPOUT
from gate2static.prune.rules.rule import Matches, Rule

_IDENTITIES = (
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip
_STOCHASTIC = {"StochasticDepth", "DropPath", "DropBlock2d", "DropBlock3d"}
"""Classes of timm's and torchvision's that drop whole branches while training."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Identity(Rule):
    """out = in."""

    @classmethod
    def match(cls, node: fx.Node, earlier: Matches) -> Self | None:
        module = module_of(earlier.gated, node, 0)
        if module is None or has_own_forward(module):
            return None
        kind = type(module)
        is_stochastic = kind.__module__.startswith(("timm.", "torchvision.")) and kind.__name__ in _STOCHASTIC
        if not is_stochastic and kind is not InTraining and layer_class(module) not in _IDENTITIES:
            return None
        source = earlier[node.all_input_nodes[0]]
        return cls(node=node, inputs=(Same(source, source.dims or ()),), channels=source.channels, dims=source.dims)

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        return inputs[0]

    def need_of_inputs(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [need]

    def origins(self, of_value: Numbering, inputs: Sequence[Numbering]) -> list[tuple[int, Ids]]:
        return [(0, np.arange(of_value.size))]

    def emit(self, live: Ids, emitter: Emitter) -> Parts:
        source = emitter.accessed(self.inputs[0])
        layer: Any = module_of(emitter.gated, self.node, 0)
        if not isinstance(layer, (*NUMBER_DROPOUT, *CHANNEL_DROPOUT)):
            emitter.training.note_layer(self.node, layer)
            return source
        if not layer.p or not emitter.training.trains(self.node):
            return source
        # Channels have a dimension of their own, but for those that lie along several.
        drops_channels = isinstance(layer, CHANNEL_DROPOUT)
        if drops_channels and (source.dim != 1 or not _is_batched(layer, len(self.shape))):
            emitter.training.note(str(self.node.target), f"is a {type(layer).__name__} on what has no channels")
            return source
        drop = torch.feature_dropout if drops_channels else torch.dropout
        parts = [Part(emitter.graph.call_function(drop, (p.node, layer.p, False)), p.ids) for p in source.parts]
        return Parts(tuple(parts), source.dim)


def _is_batched(layer: nn.Module, ndim: int) -> bool:
    """Returns whether a layer that drops channels is called on (N, C, *positions)."""
    return any(isinstance(layer, kind) and ndim == positions for positions, kind in enumerate(CHANNEL_DROPOUT, 3))
