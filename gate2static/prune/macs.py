"""The cost model: the MACs of the network that pruning would make, from the gates alone."""

from torch import Tensor

from gate2static.gates.model import GatedModel, gate_decisions
from gate2static.prune.analyse import analyse


def expected_macs(gated: GatedModel) -> Tensor:
    """Returns the multiply-accumulates per sample of the static network, heads included.

    In training mode every gate counts with its probability σ(α), treated as independent, and the result is
    differentiable; as the probabilities approach 0 and 1 it approaches the count below. In eval mode the gates count
    as the 0/1 decisions they are, and the result is the static network's count, exactly. What torch's FLOP counter does
    not know, such as LSTMs, counts nothing.

    Returns:
        A float64 scalar (exact up to 2^53 MACs).
    """
    decisions = gate_decisions(gated)
    if not gated.training:
        return analyse(gated).macs(decisions)
    probabilities = {unit: gate.probabilities().double() for unit, gate in gated.gates.items()}
    return analyse(gated).macs(decisions, probabilities)
