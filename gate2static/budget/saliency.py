"""Saliency: which channels the tasks pull apart, estimated at one network that all of them share.

Where all branches start from one network, a channel of its own is worth to a task what the task would change about
the shared one. To first order a task changes a weight by its gradient: a gradient that has the same sign in every batch
is a wish, one that has not is noise. So a channel's score is

    Σ over its weights of  (mean over batches of ∂L_t/∂w)² / (mean over batches of (∂L_t/∂w)²)

the number of its weights that the task wants to change, each counted by the signal's share of its gradient's power.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gate2static.budget.meter import gate_logits
from gate2static.errors import GateError
from gate2static.gates import GatedModel, gated_model, set_gates
from gate2static.gates.settled.settling import GateSettling
from gate2static.prune import expected_macs

Losses = Callable[[Any, Any], Mapping[str, Tensor]]
"""Maps the model's outputs and a batch's targets to one loss per task."""


def decide_by_saliency(
    gated: GatedModel,
    batches: Iterable[tuple[Tensor, Any]],
    losses: Losses,
    *,
    prefix: bool = False,
) -> dict[str, Tensor]:
    """Opens every gate, with an α that ranks it by its saliency per MAC: a budget then closes the least salient.

    Call `freeze_gates` or `project_to_budget` then, which pick the best set that fits.

    Args:
        gated: The model, whose branches and heads start from one network; its gates are changed in place.
        batches: Batches of images and targets; some fifty show what is signal and what is noise.
        losses: Maps outputs and targets to one loss per task.
        prefix: Whether a layer's private channels are its first ones. Channels that lie together move in one piece, and
            at a common start any choice of as many channels computes the same.

    Returns:
        Unit -> the scores of its gates, (T, groups).

    Raises:
        GateError: The model is no gated model, its branches differ, or there is no batch.
    """
    gated = gated_model(gated)
    _check_common_start(gated)
    scores = saliency(gated, batches, losses)
    if prefix:
        scores = {unit: score.sort(dim=1, descending=True).values for unit, score in scores.items()}
    rank_gates(gated, scores)
    return scores


def saliency(gated: GatedModel, batches: Iterable[tuple[Tensor, Any]], losses: Losses) -> dict[str, Tensor]:
    """Returns unit -> the scores of its gates, (T, groups); the model's weights stay what they are.

    Args:
        gated: The model, whose gates are all open afterwards.
        batches: Batches of images and targets.
        losses: Maps outputs and targets to one loss per task.

    Raises:
        GateError: There is no batch.
    """
    set_gates(gated, True)
    # With all gates open every branch gets the gradient of its own task alone, and the shared stream is not computed.
    was_training = gated.training
    GateSettling(gated, after_steps=1).settle_all()
    owned = {unit: _owned(gated, unit) for unit in gated.gates}
    parameters = list({id(p): p for of_tasks in owned.values() for of_task in of_tasks for p in of_task}.values())
    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]
    count = 0
    buffers = {name: buffer.clone() for name, buffer in gated.named_buffers()}
    gated.train()
    try:
        for images, targets in batches:
            total = torch.stack(list(losses(gated(images), targets).values())).sum()
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
            for index, gradient in enumerate(gradients):
                if gradient is not None:
                    first[index] += gradient
                    second[index] += gradient.square()
            count += 1
    finally:
        # Batch norms have counted the batches.
        with torch.no_grad():
            for name, buffer in gated.named_buffers():
                buffer.copy_(buffers[name])
        gated.train(was_training)
        gated.train_with(None)
    if not count:
        raise GateError("saliency needs batches, and there is none; give an iterable of (images, targets).")
    tiny = torch.finfo(torch.float32).tiny
    signal = {id(p): (a / count) ** 2 / (b / count + tiny) for p, a, b in zip(parameters, first, second, strict=True)}
    scores = {}
    for unit, gate in gated.gates.items():
        rows = [
            sum((_per_channel(signal[id(p)], gate.channels) for p in of_task), torch.zeros(gate.channels))
            for of_task in owned[unit]
        ]
        scores[unit] = _per_group(torch.stack(rows), gate.group_size)
    return scores


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
    order = flat.argsort(stable=True)
    place = torch.empty_like(flat).scatter_(0, order, torch.arange(1, len(flat) + 1).to(flat) / len(flat))
    for alpha, part in zip(logits.values(), place.split([alpha.numel() for alpha in logits.values()]), strict=True):
        alpha.copy_(part.view_as(alpha))


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


def _owned(gated: GatedModel, unit: str) -> list[list[nn.Parameter]]:
    """Returns the weights of a unit's layer, a list per task."""
    node = next(node for node in gated.program.graph.nodes if node.name == unit)
    if node.op != "call_module":
        return [[] for _ in gated.tasks]
    return [list(gated.branches[task].get_submodule(str(node.target)).parameters()) for task in gated.tasks]


def _per_channel(values: Tensor, channels: int) -> Tensor:
    """Adds up a parameter's values by output channel; where no dimension has the channels, they are spread evenly."""
    values = values.detach().float().cpu()
    for dim in range(min(2, values.dim())):  # transposed convolutions have their outputs second
        if values.shape[dim] == channels:
            return values.movedim(dim, 0).flatten(1).sum(1) if values.dim() > 1 else values
    return values.sum().expand(channels) / channels


def _per_group(values: Tensor, group_size: int) -> Tensor:
    """Adds up the channels of each group: (T, C) to (T, groups)."""
    return torch.stack([part.sum(1) for part in values.split(group_size, dim=1)], dim=1)


def _check_common_start(gated: GatedModel) -> None:
    """Raises a GateError unless all branches hold the same weights."""
    shared, *others = [dict(branch.named_parameters()) for branch in reversed(gated.branches.values())]
    for other in others:
        for name, parameter in other.items():
            if not torch.equal(parameter, shared[name]):
                raise GateError(
                    f"the branches differ, in {name} for one; saliency compares the tasks at one network, so gate a "
                    "trained shared network, without task_states."
                )
