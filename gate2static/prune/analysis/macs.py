"""One cost model: the MACs of the network that pruning would make, from the gates alone."""

import torch
from torch import Tensor

from gate2static.gates.model import GatedModel
from gate2static.prune.analysis.analyse import demand, match_rules, number
from gate2static.prune.analysis.numbering import Decisions


def expected_macs(gated: GatedModel) -> Tensor:
    """Multiply-accumulates per sample of the static network, heads included.

    In training mode every gate counts with its probability σ(α), treated as independent, and the result is
    differentiable; as the probabilities approach 0 and 1 it approaches the count below. In eval mode the gates count
    as the 0/1 decisions they are, and the result is the static network's count, exactly. What torch's FLOP counter does
    not know, such as LSTMs, counts nothing.

    Returns:
        A float64 scalar (exact up to 2^53 MACs).
    """
    decisions = {name: gate.decisions() for name, gate in gated.gates.items()}
    if not gated.training:
        return _macs(gated, decisions)
    return _macs(gated, decisions, {name: gate.probabilities().double() for name, gate in gated.gates.items()})


def _macs(gated: GatedModel, decisions: Decisions, probabilities: dict[str, Tensor] | None = None) -> Tensor:
    rules = match_rules(gated)
    needs = demand(gated, rules, probabilities or {name: d.double() for name, d in decisions.items()})
    # Which streams are equal is taken from the decisions.
    numberings = number(gated, rules, decisions) if any(r.shares_work and r.info.macs for r in rules.values()) else {}
    return torch.stack([rule.macs(needs[node], numberings.get(node)) for node, rule in rules.items()]).sum()


def constant_gate_macs(gated: GatedModel, specific: bool) -> int:
    """MACs with all gates task-specific (T separate networks) or all shared (one network)."""
    return int(_macs(gated, {n: torch.full_like(g.decisions(), specific) for n, g in gated.gates.items()}))
