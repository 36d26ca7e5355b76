"""Everything without a rule: runs once per distinct stream, on whole inputs in their original order.

A barrier costs savings, never correctness; reports name it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, fx

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.prune.analysis.channel_access import ChannelAccess, access
from gate2static.prune.analysis.need import any_reader
from gate2static.prune.analysis.nodes import has_state, module_of
from gate2static.prune.analysis.numbering import Decisions, Numbering
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Parts
from gate2static.prune.rules.rule import Matches, Rule


@dataclass(frozen=True, kw_only=True, eq=False)
class Barrier(Rule):
    """An opaque operation.

    Attributes:
        has_own_state: Whether each stream has its own parameters, so that no two streams share the value.
        is_torchs: Whether it is an operator or a layer of torch's, and not a module of a user's.
    """

    has_own_state: bool
    is_torchs: bool

    @property
    def shares_work(self) -> bool:
        return True

    @classmethod
    def match(cls, node: fx.Node, earlier: Matches) -> Self | None:
        module = module_of(earlier.gated, node, 0)
        return cls(
            node=node,
            inputs=tuple(access(earlier[n]) for n in node.all_input_nodes),
            channels=1,
            dims=None,
            has_own_state=has_state(earlier.gated, node),
            is_torchs=module is None or type(module).__module__.startswith("torch.nn"),
        )

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        # Streams that read the same values, with the same parameters, have the same result.
        values: dict[tuple[int, ...], int] = {}
        views = []
        for stream in range(self.streams):
            key = (stream if self.has_own_state else -1, *(int(n.views[stream, 0]) for n in inputs))
            views.append(values.setdefault(key, len(values)))
        return Numbering(np.array(views, dtype=np.int64)[:, None], len(values))

    def need_of_inputs(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [need for _ in self.inputs]

    def macs(self, need: Tensor, numbering: Numbering | None) -> Tensor:
        if not self.info.macs:
            return need.new_zeros(())
        assert numbering is not None
        return any_reader(need, numbering.views, numbering.size).sum() * self.info.macs

    def emit(self, live: Ids, emitter: Emitter) -> Parts:
        views = emitter.numberings[self.node].views[:, 0]
        parts = []
        for number in live.tolist():
            stream = int(np.flatnonzero(views == number)[0])
            inputs = {}
            for source in self.inputs:
                inputs[source.node] = self._protected(source, emitter.canonical(source.value, stream), emitter)
            parts.append(Part(emitter.call_like(self, stream, inputs), np.array([number])))
        return Parts(tuple(parts), None)

    def _protected(self, source: ChannelAccess, value: Any, emitter: Emitter) -> Any:
        """Emits a copy of an input for a user's module, which may write into it; `capture` removes the copy again."""
        if self.is_torchs or source.value.info.shape is None:
            return value
        return emitter.graph.call_function(torch.clone, (value,))
