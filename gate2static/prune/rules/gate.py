"""The gate of a unit: task streams pick, the shared stream mixes (eq. 2 and 3).

Picking computes nothing: a task's stream reads one of the unit's own channels. A mixed channel is computed only where
the tasks picked different channels. Where all picked the shared one, the mix is that channel, since the mixing weights
sum to one. With hard mixing nothing is computed: the shared stream reads what the winner picked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, fx

from gate2static.gates.channel_gate import Gate
from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.program.units import gated_unit
from gate2static.prune.analysis.channel_access import access
from gate2static.prune.analysis.need import either
from gate2static.prune.analysis.numbering import Decisions, Numbering
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Parts
from gate2static.prune.emission.writer import MIXES
from gate2static.prune.rules.rule import Matches, Rule


@dataclass(frozen=True, kw_only=True, eq=False)
class GateRule(Rule):
    """The gate behind a unit.

    Its pool has the unit's own channels, with their numbers; then, unless mixing is hard, C mixed ones.

    Attributes:
        unit: The unit's name.
        gate: The unit's gate.
    """

    unit: str
    gate: Gate

    keeps_numbers: ClassVar[bool] = True
    ends_unit: ClassVar[bool] = True

    @classmethod
    def match(cls, node: fx.Node, earlier: Matches) -> Self | None:
        if node.target is not gated_unit:
            return None
        unit = str(node.args[1])
        gate = earlier.gated.gates[unit]
        source = access(earlier[node.all_input_nodes[0]], (gate.dim,))
        return cls(node=node, inputs=(source,), channels=source.channels, dims=(gate.dim,), unit=unit, gate=gate)

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        views = inputs[0].views  # (T+1, C), the shared stream last
        size = int(views.max()) + 1
        picked = np.where(decisions[self.unit].cpu().numpy(), views[:-1], views[-1])  # (T, C)
        if self.gate.hard:
            winners = self.gate.winners().cpu().numpy()  # (C,)
            won = picked[winners, np.arange(self.channels)]
            return Numbering(np.concatenate([picked, won[None]]), size)
        # Where all tasks picked the shared channel, the mix is that channel: the weights sum to one.
        all_alike = (picked == picked[0]).all(0)
        mixed = np.where(all_alike, picked[0], size + np.arange(self.channels))
        return Numbering(np.concatenate([picked, mixed[None]]), size + self.channels)

    def need_of_inputs(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        p = gates[self.unit]  # (T, C) the probability that a task takes its own channel
        mixed = need[-1:]
        if self.gate.hard:
            # Only the winner's pick is needed for the mix.
            tasks = torch.arange(len(p), device=p.device)[:, None]
            mixed = mixed * (tasks == self.gate.winners().to(p.device))
        # A pick is needed by its task or by the mix; the shared channel by every task that did not take its own.
        picked = either(need[:-1], mixed)
        shared = 1 - (1 - (1 - p) * picked).prod(0, keepdim=True)
        return [torch.cat([p * picked, shared])]

    def origins(self, of_value: Numbering, inputs: Sequence[Numbering]) -> list[tuple[int, Ids]]:
        first_mixed = self._first_mixed(of_value)
        mixed_count = of_value.size - first_mixed
        # A mixed channel is made of every task's pick; all others are the unit's own.
        return [(0, np.concatenate([np.arange(first_mixed), picked[:mixed_count]])) for picked in of_value.views[:-1]]

    def emit(self, live: Ids, emitter: Emitter) -> Parts:
        numbering = emitter.numberings[self.node]
        source = emitter.accessed(self.inputs[0])
        arrangement = emitter.arrangement
        first_mixed = self._first_mixed(numbering)
        mixed = live[live >= first_mixed]
        if arrangement.layout.share_work:
            blocks = arrangement.in_blocks(self, mixed) if len(mixed) else []
            mixed_parts = [Part(self._mix(ids - first_mixed, source, emitter), ids) for ids in blocks]
            return Parts((*source.parts, *mixed_parts), self.dim)
        streams = arrangement.by_streams(self)
        if not len(mixed):
            return Parts(tuple(Part(emitter.view(source, ids), ids) for ids in streams), self.dim)
        # All channels of the shared stream are mixed: the tasks' streams are put together anyway, and choosing those
        # of their channels that need mixing costs more.
        *tasks, shared = streams
        parts = [Part(emitter.view(source, ids), ids) for ids in tasks]
        channels = np.flatnonzero(np.isin(numbering.views[-1], shared))
        return Parts((*parts, Part(self._mix(channels, source, emitter), shared)), self.dim)

    def _first_mixed(self, numbering: Numbering) -> int:
        """Returns the number of the first mixed channel of the pool; its size where there is none."""
        return numbering.size if self.gate.hard else numbering.size - self.channels

    def _mix(self, channels: Ids, source: Parts, emitter: Emitter) -> fx.Node:
        """Emits the tasks' picks of some channels, weighted by the softmax of β and added up."""
        graph = emitter.graph
        views = emitter.numberings[self.node].views
        tasks = self.streams - 1
        logits = emitter.parameter(self.gate.beta[:, torch.from_numpy(channels)], f"{MIXES}.{self.unit}")
        # The softmax stays in the network, so that converting it to float64 is exact; the deployed form evaluates it.
        weights = graph.call_function(torch.softmax, (logits, 0))
        # (T, channels) -> (T, channels, 1, …) against (N, …, channels, …)
        dims_behind = len(self.shape) - 1 - self.dim
        sizes = [tasks, len(channels), *[1] * dims_behind]
        weights = graph.call_function(torch.reshape, (weights, sizes))
        terms = []
        for task in range(tasks):
            view = emitter.view(source, views[task, channels])
            weight = graph.call_function(torch.select, (weights, 0, task))
            terms.append(graph.call_function(torch.mul, (view, weight)))
        total = terms[0]
        for term in terms[1:]:
            total = graph.call_function(torch.add, (total, term))
        return total
