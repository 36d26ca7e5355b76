"""The order in which a budget closes gates: by what they are worth per MAC."""

from collections.abc import Mapping

import torch
from torch import Tensor

from gate2static.budget.meter import gate_logits
from gate2static.gates import GatedModel
from gate2static.prune import expected_macs


def rank_gates(gated: GatedModel, scores: Mapping[str, Tensor]) -> None:
    """Sets every α to its place, in (0, 1], when gates are sorted by score per MAC.

    Args:
        gated: The model, whose gates are changed in place.
        scores: Unit -> the scores of its gates, (T, groups). Units that share an α add up.
    """
    logits = gate_logits(gated)
    costs = _macs_per_gate(gated, logits)
    worth = []
    for name in logits:
        tied = [unit for unit, gate in gated.gates.items() if gate.alpha is gated.gates[name].alpha]
        score = torch.stack([scores[unit] for unit in tied]).sum(0).to(costs[name])
        worth.append((score / costs[name].clamp(min=1.0)).flatten())
    flat = torch.cat(worth)
    # Of equals the last gates come first, and close first, so that equal channels of a layer leave a prefix open.
    order = len(flat) - 1 - flat.flip(0).argsort(stable=True)
    place = torch.empty_like(flat).scatter_(0, order, torch.arange(1, len(flat) + 1).to(flat) / len(flat))
    for alpha, part in zip(logits.values(), place.split([alpha.numel() for alpha in logits.values()]), strict=True):
        alpha.copy_(part.view_as(alpha))
    let_sharers_win(gated)


def let_sharers_win(gated: GatedModel) -> None:
    """Lets the task whose gate closes first carry the shared stream, where that is one task's feature (hard mixing).

    So the winner mostly shares where any task does. A feature that a task has for itself would otherwise go on as the
    shared stream, and train on the losses of all tasks.

    Args:
        gated: The model, whose gates a budget closes in the order of α; its β are changed in place.
    """
    for gate in gated.gates.values():
        if gate.hard:
            gate.beta.detach().copy_(-gate.alpha.detach())


def _macs_per_gate(gated: GatedModel, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns by how much each gate changes the expected MACs where every gate is as likely open as closed."""
    for alpha in logits.values():
        alpha.zero_()
    names = list(logits)
    was_training = gated.training
    gated.training = True
    required = [gated.gates[name].alpha.requires_grad for name in names]
    try:
        parameters = [gated.gates[name].alpha.requires_grad_() for name in names]
        gradients = torch.autograd.grad(expected_macs(gated), parameters)
    finally:
        gated.training = was_training
        for name, flag in zip(names, required, strict=True):
            gated.gates[name].alpha.requires_grad_(flag)
    return {name: gradient.double() for name, gradient in zip(names, gradients, strict=True)}
