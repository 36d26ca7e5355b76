"""`with_groups`: a trained gated network whose gates decide for groups of another size."""

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from gate2static.arguments import require_count
from gate2static.errors import GateError
from gate2static.gates.arguments import MOST_CHANNELS
from gate2static.gates.model import GatedModel, gated_model


def with_groups(gated: GatedModel, group_size: int | Literal["layer"]) -> GatedModel:
    """Returns a gated network with the same weights, whose gates decide for groups of another size.

    A new group takes the mean of its channels' logits: α, and β with hard mixing. So smaller groups that divide the old
    ones decide alike, and nothing changes. Groups that held channels of both sides take one, and the network computes
    something else until it is trained on.

    Args:
        gated: The network, or what wraps it for training; it is not changed.
        group_size: The number of neighbouring channels that share one gate; "layer" gives each layer one gate per task.

    Returns:
        The new network, in the same mode. It shares nothing with the old one, so optimisers are made anew.

    Raises:
        GateError: The model is no gated one, or the size is neither a positive number nor "layer".
    """
    size = MOST_CHANNELS if group_size == "layer" else group_size
    require_count(size, name='group_size, a number of channels or "layer",', error=GateError, most=MOST_CHANNELS)
    changed = copy.deepcopy(gated_model(gated))
    # Gates of tied units share their parameters.
    regrouped: dict[nn.Parameter, nn.Parameter] = {}
    for gate in changed.gates.values():
        width = min(size, gate.channels)
        for logits in (gate.alpha, gate.beta) if gate.hard else (gate.alpha,):
            if logits not in regrouped:
                means = _means(gate.per_channel(logits.detach()), width)
                regrouped[logits] = nn.Parameter(means, requires_grad=logits.requires_grad)
        gate.alpha = regrouped[gate.alpha]
        gate.beta = regrouped.get(gate.beta, gate.beta)
        gate.group_size = width
    return changed


def _means(logits: Tensor, width: int) -> Tensor:
    """Returns the means of neighbouring channels, (T, C) -> (T, ceil(C / width)), exactly where they are equal."""
    means = []
    for group in logits.split(width, dim=1):
        first = group[:, :1]
        means.append(first + (group - first).mean(dim=1, keepdim=True))
    return torch.cat(means, dim=1)
