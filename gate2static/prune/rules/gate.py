"""The gate of a unit: task streams pick, the shared stream mixes (eq. 2 and 3).

A picked channel is the picked channel: the gate computes nothing. A mixed channel is new only where the tasks picked
different things; where all picked the shared one, the mix is that channel, since the mixing weights sum to one. With
hard mixing none is new: the shared stream reads what the winner picked.
"""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, fx

from gate2static.gates.channel_gate import Gate
from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.program.program import gated_unit
from gate2static.prune.analysis.channel_access import Reading, read
from gate2static.prune.analysis.numbering import Decisions, Numbering, either
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Pool
from gate2static.prune.rules.rule import Rule


class GateRule(Rule):
    """Pool: the unit's own channels with their numbers, then, unless mixing is hard, one mixed channel each."""

    keeps_numbers = True
    ends_unit = True

    def __init__(self, node: fx.Node, source: Reading, gate: Gate) -> None:
        super().__init__(node, [source], source.channels, (gate.dim,))
        self._unit, self._gate = str(node.args[1]), gate

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        if node.target is not gated_unit:
            return None
        gate = gated.gates[str(node.args[1])]
        return cls(node, read(rules[node.all_input_nodes[0]], (gate.dim,)), gate)

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        own = inputs[0].views
        size = int(own.max()) + 1
        picked = np.where(decisions[self._unit].cpu().numpy(), own[:-1], own[-1])
        if self._gate.hard:
            won = picked[self._gate.winners().cpu().numpy(), np.arange(self.channels)]
            return Numbering(np.concatenate([picked, won[None]]), size)
        mixed = np.where((picked == picked[0]).all(0), picked[0], size + np.arange(self.channels))
        return Numbering(np.concatenate([picked, mixed[None]]), size + self.channels)

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        p = gates[self._unit]
        mixed = need[-1:]
        if self._gate.hard:
            mixed = mixed * (torch.arange(len(p), device=p.device)[:, None] == self._gate.winners().to(p.device))
        picked = either(need[:-1], mixed)
        shared = 1 - (1 - (1 - p) * picked).prod(0, keepdim=True)
        return [torch.cat([p * picked, shared])]

    def origins(self, own: Numbering, inputs: Sequence[Numbering]) -> list[tuple[int, Ids]]:
        first_mixed = own.size if self._gate.hard else own.size - self.channels
        ids = np.arange(first_mixed)
        mixed = own.size - first_mixed
        return [(0, np.concatenate([ids, picked[:mixed]])) for picked in own.views[:-1]]

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        numbering = emitter.numberings[self.node]
        source = emitter.pool(self.inputs[0])
        first_mixed = numbering.size if self._gate.hard else numbering.size - self.channels
        mixed = live[live >= first_mixed]
        if emitter.lowering.share_elementwise:
            blocks = emitter.in_blocks(self, mixed) if len(mixed) else []
            parts = [Part(self._mix(ids - first_mixed, source, emitter), ids) for ids in blocks]
            return Pool((*source.parts, *parts), self.dim)
        streams = emitter.by_streams(self, live)
        if not len(mixed):
            return Pool(tuple(Part(emitter.view(source, ids), ids) for ids in streams), self.dim)
        # All channels of the shared stream are mixed: the tasks' streams are put together anyway, and choosing those
        # of their channels that need mixing costs more.
        *tasks, shared = streams
        parts = [Part(emitter.view(source, ids), ids) for ids in tasks]
        channels = np.flatnonzero(np.isin(numbering.views[-1], shared))
        return Pool((*parts, Part(self._mix(channels, source, emitter), shared)), self.dim)

    def _mix(self, channels: Ids, source: Pool, emitter: Emitter) -> fx.Node:
        """The picked features of some channels weighted by the softmax of β."""
        numbering = emitter.numberings[self.node]
        logits = emitter.constant(self._gate.beta.detach()[:, torch.from_numpy(channels)], trained=True)
        # The softmax stays in the network, so that converting it to float64 is exact; `fold` evaluates it.
        weights = emitter.graph.call_function(torch.softmax, (logits, 0))
        behind = len(self.info.shape or ()) - 1 - self.dim
        weights = emitter.graph.call_function(
            torch.reshape, (weights, [self.streams - 1, len(channels), *[1] * behind])
        )
        terms = []
        for task in range(self.streams - 1):
            view = emitter.view(source, numbering.views[task, channels])
            weight = emitter.graph.call_function(torch.select, (weights, 0, task))
            terms.append(emitter.graph.call_function(torch.mul, (view, weight)))
        total = terms[0]
        for term in terms[1:]:
            total = emitter.graph.call_function(torch.add, (total, term))
        return total
