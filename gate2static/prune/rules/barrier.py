"""Everything without a rule: runs once per distinct stream, on whole inputs in their original order.

A barrier costs savings, never correctness; reports name it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, fx

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.prune.analysis.channel_access import Reading, read
from gate2static.prune.analysis.nodes import has_state, module_of
from gate2static.prune.analysis.numbering import Decisions, Numbering, any_reader
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Pool
from gate2static.prune.rules.rule import Rule


class Barrier(Rule):
    """An opaque operation."""

    shares_work = True

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        rule = cls(node, [read(rules[n]) for n in node.all_input_nodes], 1, None)
        rule.own = has_state(gated, node)
        module = module_of(gated, node, 0)
        rule.is_torchs_own = module is None or type(module).__module__.startswith("torch.nn")
        return rule

    own: bool
    """Whether each stream has its own parameters, so that no two streams share the value."""
    is_torchs_own: bool
    """Whether it is no module of a user's."""

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        seen: dict[tuple[int, ...], int] = {}
        views = []
        for stream in range(self.streams):
            key = (stream if self.own else -1, *(int(n.views[stream, 0]) for n in inputs))
            views.append(seen.setdefault(key, len(seen)))
        return Numbering(np.array(views, dtype=np.int64)[:, None], len(seen))

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [need for _ in self.inputs]

    def macs(self, need: Tensor, numbering: Numbering | None) -> Tensor:
        if not self.info.macs:
            return need.new_zeros(())
        assert numbering is not None
        return any_reader(need, numbering.views, numbering.size).sum() * self.info.macs

    def _own_copy(self, source: Reading, value: Any, emitter: Emitter) -> Any:
        """A user's module may write into its inputs; `capture` removes the copy again."""
        if self.is_torchs_own or source.rule.info.shape is None:
            return value
        return emitter.graph.call_function(torch.clone, (value,))

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        views = emitter.numberings[self.node].views[:, 0]
        parts = []
        for value in live.tolist():
            stream = int(np.flatnonzero(views == value)[0])
            inputs = {r.node: self._own_copy(r, emitter.canonical(r.rule, stream), emitter) for r in self.inputs}
            parts.append(Part(emitter.call_like(self, stream, inputs), np.array([value])))
        return Pool(tuple(parts), None)
