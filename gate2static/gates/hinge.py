"""The sparsity hinge, which pulls the share of task-specific gates down to a target (eq. 4)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from gate2static.arguments import require_kind, require_number
from gate2static.errors import GateError
from gate2static.gates.model import GatedModel, gated_model


def sparsity_hinge(gated: GatedModel, *, targets: Mapping[str, float]) -> Tensor:
    """Returns the mean over tasks of how far the share of task-specific gates exceeds the task's target.

    L = 1/T Σ_t max(0, 1/L Σ_ℓ mean_c σ(α_t^ℓ) - τ_t), eq. 4 with docs/paper.md, note 3.

    Args:
        gated: The model.
        targets: Task -> its target τ, between 0 and 1.

    Returns:
        A scalar with gradients to the gate logits.

    Raises:
        GateError: The model is no gated model, a task has no target, a target has no task, or a target lies
            outside [0, 1].
    """
    gated = gated_model(gated)
    require_kind(targets, Mapping, name="targets", allowed="a dict from task to a number", error=GateError)
    if set(targets) != set(gated.tasks):
        raise GateError(
            f"hinge targets are given for {sorted(map(str, targets))}, the model's tasks are {sorted(gated.tasks)}; "
            "give one target to each task."
        )
    for task, target in targets.items():
        require_number(target, name=f"the hinge target of {task}", least=0, most=1, error=GateError)
    # (L, T): each layer counts alike, however many channels it has.
    shares = torch.stack([gate.probabilities().mean(1) for gate in gated.gates.values()])
    excess = shares.mean(0) - torch.tensor([targets[task] for task in gated.tasks]).to(shares)
    return excess.clamp(min=0).mean()
