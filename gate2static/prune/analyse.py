"""The analysis of a gated model's channels: a rule for every node, numbering forwards, need backwards.

The rules of a program are found once. Numbering and need follow from them for any gates: those of the model, for the
plan; all open or all closed, for comparison; probabilities, for a cost that can be differentiated.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from gate2static.gates.model import GatedModel, gate_decisions
from gate2static.prune.analysis.need import either
from gate2static.prune.analysis.numbering import Decisions, Numbering
from gate2static.prune.present import as_it_is
from gate2static.prune.rules import RULES, Matches, Rule


@dataclass(frozen=True)
class ChannelAnalysis:
    """A gated model seen channel by channel.

    Attributes:
        gated: The model.
        rules: Node -> its rule, in program order, for every node but the output.
    """

    gated: GatedModel
    rules: Mapping[fx.Node, Rule]

    @property
    def outputs(self) -> dict[str, fx.Node]:
        """Name of an output -> its node."""
        return self.gated.program.outputs

    def number(self, decisions: Decisions) -> dict[fx.Node, Numbering]:
        """Numbers the channels of every node where the gates decide so (value numbering)."""
        numberings: dict[fx.Node, Numbering] = {}
        for node, rule in self.rules.items():
            inputs = [source.numbering(numberings[source.node]) for source in rule.inputs]
            numberings[node] = rule.number(inputs, decisions, self.gated)
        return numberings

    def need(self, gates: Mapping[str, Tensor], blind: Collection[fx.Node] = ()) -> dict[fx.Node, Tensor]:
        """Finds how far the outputs need every channel of every stream (liveness).

        Args:
            gates: Unit -> (T, C), in [0, 1]; 0 and 1 give exact liveness.
            blind: Nodes that read nothing, to see what they cost.

        Returns:
            Node -> (S, C).
        """
        sample = next(iter(gates.values()))
        # Every node starts unneeded but the outputs, and collects the need of its readers: they come after it.
        needs = {node: sample.new_zeros((rule.streams, rule.channels)) for node, rule in self.rules.items()}
        for node in self.outputs.values():
            needs[node] = torch.ones_like(needs[node])
        for node, rule in reversed(list(self.rules.items())):
            if node in blind:
                continue
            of_inputs = rule.need_of_inputs(needs[node], gates)
            for source, need in zip(rule.inputs, of_inputs, strict=True):
                needs[source.node] = either(needs[source.node], source.need_of_value(need))
        return needs

    def macs(self, decisions: Decisions, probabilities: Mapping[str, Tensor] | None = None) -> Tensor:
        """Returns the MACs per sample of the static network, as a float64 scalar.

        Args:
            decisions: Unit -> (T, C) bool. Which streams are equal is taken from these in any case.
            probabilities: Unit -> (T, C) in [0, 1], to count channels with; the decisions when absent.
        """
        needs = self.need(probabilities or _as_numbers(decisions))
        # Numbering takes as long as need; most networks count their MACs without it.
        shares_work = any(rule.shares_work and rule.info.macs for rule in self.rules.values())
        numberings = self.number(decisions) if shares_work else {}
        return torch.stack([rule.macs(needs[node], numberings.get(node)) for node, rule in self.rules.items()]).sum()

    def macs_of_constant_gates(self, specific: bool) -> int:
        """Returns the MACs with all gates task-specific (T separate networks) or all shared (one network)."""
        decisions = gate_decisions(self.gated)
        return int(self.macs({unit: torch.full_like(d, specific) for unit, d in decisions.items()}))


def analyse(gated: GatedModel) -> ChannelAnalysis:
    """Finds the rule of every node of a model's program, as the model is at present.

    Raises:
        PruneError: A layer of a branch or a gate was replaced since the model was gated.
        GateError: A head was replaced, and the new one does not fit.
    """
    gated = as_it_is(gated)
    matches = Matches(gated)
    # A rule reads those of its inputs, so nodes are matched in program order. The barrier takes whatever is left.
    for node in gated.program.graph.nodes:
        if node.op != "output":
            matches.rules[node] = next(rule for kind in RULES if (rule := kind.match(node, matches)) is not None)
    return ChannelAnalysis(gated, matches.rules)


def _as_numbers(decisions: Decisions) -> dict[str, Tensor]:
    return {unit: decision.double() for unit, decision in decisions.items()}
