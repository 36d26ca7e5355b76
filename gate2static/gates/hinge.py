"""The sparsity hinge (eq. 4)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from gate2static.errors import GateError
from gate2static.gates.model import GatedModel


def sparsity_hinge(gated: GatedModel, *, targets: Mapping[str, float]) -> Tensor:
    """Mean over tasks of how far the share of task-specific gates exceeds the task's target.

    L = 1/T Σ_t max(0, 1/L Σ_ℓ mean_c σ(α_t^ℓ) - τ_t), eq. 4 with docs/paper.md, note 3.

    Args:
        gated: the model.
        targets: τ of every task, between 0 and 1.

    Returns:
        A scalar with gradients to the gate logits.

    Raises:
        GateError: a task without a target, a target without a task, or a target outside [0, 1].
    """
    if set(targets) != set(gated.tasks):
        raise GateError(
            f"hinge targets are given for {sorted(targets)}, the model's tasks are {sorted(gated.tasks)}; "
            "give one target to each task."
        )
    if bad := {t: v for t, v in targets.items() if not 0 <= v <= 1}:
        raise GateError(f"hinge targets must lie between 0 and 1, found {bad}.")
    layers = torch.stack([gate.probabilities().mean(1) for gate in gated.gates.values()])
    excess = layers.mean(0) - torch.tensor([targets[t] for t in gated.tasks]).to(layers)
    return excess.clamp(min=0).mean()
