"""The cost model: the MACs of the network that pruning would make, from the gates alone."""

import torch
from torch import Tensor

from gate2static.gates.model import GatedModel, gate_decisions, gated_model
from gate2static.prune.analyse import ChannelAnalysis, analyse
from gate2static.prune.plan import check_align, keep_needed


def expected_macs(gated: GatedModel, *, align: int = 1) -> Tensor:
    """Returns the multiply-accumulates per sample of the static network, heads included.

    In training mode every gate counts with its probability σ(α), treated as independent, and the result is
    differentiable; as the probabilities approach 0 and 1 it approaches the count below. In eval mode the gates count
    as the 0/1 decisions they are, and the result is the static network's count, exactly.

    Args:
        gated: The gated model.
        align: The alignment that `prune` is given. In training mode, the channels that only fill up layers count as the
            share that they have with the present decisions, which has no gradient.

    Returns:
        A float64 scalar (exact up to 2^53 MACs).

    Raises:
        GateError: The model is no gated model.
        PruneError: An impossible alignment.
    """
    gated = gated_model(gated)
    check_align(align)
    decisions = gate_decisions(gated)
    analysis = analyse(gated)
    if not gated.training and align == 1:
        return analysis.macs(decisions)
    if not gated.training:
        return _filled_up(analysis, align)
    probabilities = {unit: gate.probabilities().double() for unit, gate in gated.gates.items()}
    expected = analysis.macs(decisions, probabilities)
    if align == 1:
        return expected
    return expected * (_filled_up(analysis, align) / analysis.macs(decisions).clamp(min=1.0))


def _filled_up(analysis: ChannelAnalysis, align: int) -> Tensor:
    """Returns the MACs of the layers as they are emitted, with the channels that only fill them up."""
    device = next(analysis.gated.parameters()).device
    return torch.tensor(keep_needed(analysis, align=align).macs(), dtype=torch.float64, device=device)
