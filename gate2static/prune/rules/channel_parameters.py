"""Layers that map every channel by itself with parameters of its own.

Batch norm in eval mode, depth-wise convolution, instance norm, PReLU. Where two streams map the same input channel,
their parameters differ, so they have two results. A fixed filter is the same in all streams and has one result.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, fx, nn

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.program.layer_kinds import layer_class
from gate2static.program.operators import BATCH_NORMS, INSTANCE_NORMS
from gate2static.prune.analysis.channel_access import access
from gate2static.prune.analysis.need import any_reader
from gate2static.prune.analysis.nodes import module_of
from gate2static.prune.analysis.numbering import Decisions, Numbering, own_channels, unique_rows
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Parts
from gate2static.prune.emission.slicing import picked, tensors_of, with_tensors
from gate2static.prune.rules.dense import CONVOLUTIONS, weight_layer_dim
from gate2static.prune.rules.rule import Matches, Rule


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelParameters(Rule):
    """out[c] = f_c(in[c]), with f_c of the stream's own.

    The sources of its pool channels are (the source's pool channel, stream · C + channel of the parameters).

    Attributes:
        is_fixed: Whether all streams have the same f, which is not trained.
    """

    is_fixed: bool

    keeps_numbers: ClassVar[bool] = True

    @property
    def shares_work(self) -> bool:
        return self.is_fixed

    @classmethod
    def match(cls, node: fx.Node, earlier: Matches) -> Self | None:
        module: Any = module_of(earlier.gated, node, 0)
        node_info = node.meta["info"]
        shape = node_info.shape
        if shape is None or len(shape) < 2 or not _is_per_channel(node, module, earlier.gated):
            return None
        layers = [module_of(earlier.gated, node, stream) for stream in range(len(node_info.streams))]
        source = access(earlier[node.all_input_nodes[0]], (1,))
        return cls(node=node, inputs=(source,), channels=shape[1], dims=(1,), is_fixed=_are_fixed(layers))

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        views = inputs[0].views
        parameters = own_channels(*views.shape).views
        if len(np.unique(views)) == views.size:
            # Every stream's channels are its own already: they keep their numbers, as the layer's order relies on.
            sources = np.full((int(views.max()) + 1, 2), -1, dtype=np.int64)
            sources[views.ravel()] = np.stack([views.ravel(), parameters.ravel()], 1)
            return Numbering(views, len(sources), sources)
        if self.is_fixed:
            return unique_rows(np.stack([views, parameters % self.channels], 2))
        return Numbering(parameters, views.size, np.stack([views.ravel(), parameters.ravel()], 1))

    def need_of_inputs(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [need]

    def macs(self, need: Tensor, numbering: Numbering | None) -> Tensor:
        if self.is_fixed and self.info.macs:
            assert numbering is not None
            need = any_reader(need, numbering.views, numbering.size)
        return need.sum() * (self.info.macs // self.channels)

    def origins(self, of_value: Numbering, inputs: Sequence[Numbering]) -> list[tuple[int, Ids]]:
        assert of_value.sources is not None
        return [(0, of_value.sources[:, 0])]

    def emit(self, live: Ids, emitter: Emitter) -> Parts:
        sources = emitter.numberings[self.node].sources
        assert sources is not None
        arrangement = emitter.arrangement
        source = emitter.accessed(self.inputs[0])
        # Following the source's parts needs no copy. But where streams are put together, their parts overlap, and what
        # has MACs must run once per channel.
        may_follow_parts = arrangement.layout.share_work or not self.info.macs
        if may_follow_parts and np.array_equal(sources[live, 0], live):
            groups = arrangement.by_parts(self, source, live)
        else:
            groups = []
            for ids in arrangement.by_readers(self, arrangement.order(self, live)):
                groups.append(ids[arrangement.sorted_positions(source, sources[ids, 0])])
        parts = []
        for ids in groups:
            view = emitter.view(source, sources[ids, 0])
            parts.append(Part(self._call(view, sources[ids, 1], emitter), ids))
        return Parts(tuple(parts), 1)

    def _call(self, view: fx.Node, parameters: Ids, emitter: Emitter) -> fx.Node:
        """Emits the layer with the channels `parameters`, numbered stream · C + channel."""
        layers: list[Any] = [module_of(emitter.gated, self.node, stream) for stream in range(self.streams)]
        owners, channels = np.divmod(parameters, self.channels)
        tensors = {}
        for name, tensor in tensors_of(layers[0]).items():
            # PReLU may have one slope for all channels.
            positions = channels if len(tensor) > 1 else np.zeros_like(channels)
            tensors[name] = picked(layers, name, owners, positions)
        names = ("num_features", "num_parameters", "in_channels", "out_channels", "groups")
        settings = {name: len(parameters) for name in names if hasattr(layers[0], name)}
        return emitter.module(self.node, with_tensors(layers[0], tensors, **settings), (view,), streams=owners)


def _are_fixed(layers: Sequence[Any]) -> bool:
    """Returns whether all streams have the same filter, which is not trained."""
    first = tensors_of(layers[0])
    for other in layers[1:]:
        of_other = tensors_of(other)
        if not all(torch.equal(tensor, of_other[name]) for name, tensor in first.items()):
            return False
    return not any(True for _ in layers[0].parameters())


def _is_per_channel(node: fx.Node, module: Any, gated: GatedModel) -> bool:
    kind = layer_class(module)
    if kind in CONVOLUTIONS:
        is_depthwise = module.groups == module.in_channels == module.out_channels > 1
        return is_depthwise and weight_layer_dim(node, gated) == 1
    if kind in BATCH_NORMS:
        return module.running_mean is not None
    if kind in INSTANCE_NORMS:
        is_batched = len(node.meta["info"].shape) == 3 + INSTANCE_NORMS.index(kind)
        return is_batched and bool(tensors_of(module))
    return kind is nn.PReLU
