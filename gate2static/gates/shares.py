"""How much each task keeps to itself: the shares of task-specific channels, for logs and tables."""

from typing import Literal, overload

import torch

from gate2static.gates.model import GatedModel, gate_decisions, gated_model


@overload
def gate_shares(gated: GatedModel) -> dict[str, float]: ...


@overload
def gate_shares(gated: GatedModel, *, per_unit: Literal[False]) -> dict[str, float]: ...


@overload
def gate_shares(gated: GatedModel, *, per_unit: Literal[True]) -> dict[str, dict[str, float]]: ...


def gate_shares(gated: GatedModel, *, per_unit: bool = False) -> dict[str, float] | dict[str, dict[str, float]]:
    """Returns the share of channels that each task takes from its own branch, as the gates are decided now.

    Args:
        gated: The gated model, or a wrapper of it.
        per_unit: Whether the shares are those of each unit, and not over the channels of all units.

    Returns:
        Task -> its share, 0 to 1; or unit -> task -> its share in that unit.

    Raises:
        GateError: The argument is no gated model.
    """
    gated = gated_model(gated)
    decisions = gate_decisions(gated)
    if per_unit:
        return {unit: _by_task(gated, decision) for unit, decision in decisions.items()}
    # (T, channels of all units)
    return _by_task(gated, torch.cat(list(decisions.values()), dim=1))


def _by_task(gated: GatedModel, decisions: torch.Tensor) -> dict[str, float]:
    return dict(zip(gated.tasks, decisions.double().mean(dim=1).tolist(), strict=True))
