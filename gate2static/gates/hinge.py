"""The sparsity hinge, which pulls the share of task-specific gates down to a target (eq. 4)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from gate2static.errors import GateError
from gate2static.gates.model import GatedModel


def sparsity_hinge(gated: GatedModel, *, targets: Mapping[str, float]) -> Tensor:
    """Returns the mean over tasks of how far the share of task-specific gates exceeds the task's target.

    L = 1/T Σ_t max(0, 1/L Σ_ℓ mean_c σ(α_t^ℓ) - τ_t), eq. 4 with docs/paper.md, note 3.

    Args:
        gated: The model.
        targets: Task -> its target τ, between 0 and 1.

    Returns:
        A scalar with gradients to the gate logits.

    Raises:
        GateError: A task has no target, a target has no task, or a target lies outside [0, 1].
    """
    if set(targets) != set(gated.tasks):
        raise GateError(
            f"hinge targets are given for {sorted(targets)}, the model's tasks are {sorted(gated.tasks)}; "
            "give one target to each task."
        )
    if outside := {task: target for task, target in targets.items() if not 0 <= target <= 1}:
        raise GateError(f"hinge targets must lie between 0 and 1, found {outside}.")
    # (L, T): each layer counts alike, however many channels it has.
    shares = torch.stack([gate.probabilities().mean(1) for gate in gated.gates.values()])
    excess = shares.mean(0) - torch.tensor([targets[task] for task in gated.tasks]).to(shares)
    return excess.clamp(min=0).mean()
