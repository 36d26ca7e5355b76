"""The two optimisers and their learning rates, which follow from the position and so need no saved state."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, Optimizer

from gate2static.architectures import Architecture
from gate2static.gates import GatedModel, GateOptimiser, gate_parameters, weight_parameters
from gate2static.recipe import (
    GatedNetworkRecipe,
    GateOptimiserRecipe,
    NetworkRecipe,
    ScheduleRecipe,
    WeightOptimiserRecipe,
)


def build_optimisers(
    model: nn.Module,
    settings: NetworkRecipe,
    *,
    fused: bool = True,
    search_steps: int = 1,
    sparsity_weight: float = 0.0,
    targets: Mapping[str, float] | None = None,
) -> dict[str, Optimizer]:
    """Builds Adam or SGD for the weights and, for a gated model, SGD (section 4.1) or `GateOptimiser` for gates.

    Args:
        model: The model to train. What an architecture trains otherwise has parameter groups of its own.
        settings: The optimisers' settings. With `weights.heads_lr`, the heads are the weights' second parameter group.
        fused: Whether the weights' optimiser runs as one kernel. Mixed precision needs False, to unscale and clip
            gradients before a step.
        search_steps: Optimiser steps before gates are frozen, for `GateOptimiser`.
        sparsity_weight: λ of `GateOptimiser`; for SGD, sparsity is a term of the loss.
        targets: τ of `GateOptimiser` by task; None for 0.

    Returns:
        `weights` and, for a gated model, `gates`.
    """
    weights = weight_parameters(model) if isinstance(model, GatedModel) else list(model.parameters())
    recipe = settings.weights
    params: list[dict[str, Any]] = [{"params": weights}]
    if recipe.heads_lr is not None:
        # By identity, because tensors cannot be compared with `in`.
        heads = {id(p) for p in model.get_submodule("heads").parameters()}
        params = [
            {"params": [p for p in weights if id(p) not in heads]},
            {"params": [p for p in weights if id(p) in heads]},
        ]
    for group in model.parameter_groups(recipe.kind) if isinstance(model, Architecture) else ():
        taken = {id(p) for p in group["params"]}
        for other in params:
            other["params"] = [p for p in other["params"] if id(p) not in taken]
        params.append(group)
    optimisers: dict[str, Optimizer] = {"weights": _for_weights(params, recipe, fused=fused)}
    if isinstance(model, GatedModel) and isinstance(settings, GatedNetworkRecipe):
        optimisers["gates"] = _for_gates(model, settings.gates, search_steps, sparsity_weight, targets or 0.0)
    return optimisers


def _for_weights(params: list[dict[str, Any]], recipe: WeightOptimiserRecipe, *, fused: bool) -> Optimizer:
    if recipe.kind == "sgd":
        return SGD(params, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=fused)
    return Adam(params, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused)


def _for_gates(
    model: GatedModel,
    recipe: GateOptimiserRecipe,
    steps: int,
    sparsity_weight: float,
    targets: Mapping[str, float] | float,
) -> Optimizer:
    if recipe.kind == "scaled":
        return GateOptimiser(model, steps=steps, sparsity_weight=sparsity_weight, targets=targets)
    return SGD(gate_parameters(model), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def set_learning_rates(
    optimisers: dict[str, Optimizer], settings: NetworkRecipe, *, epoch: int, progress: float, steps: int
) -> None:
    """Sets every optimiser's learning rate for the next step.

    Args:
        optimisers: The optimisers, as of `build_optimisers`.
        settings: The settings that they were built with.
        epoch: Epochs that are complete.
        progress: The share of all steps that are done, in [0, 1).
        steps: Steps that are done.
    """
    for name, optimiser in optimisers.items():
        if isinstance(optimiser, GateOptimiser):
            continue  # its rate follows from the number of steps
        recipe = settings.gates if name == "gates" and isinstance(settings, GatedNetworkRecipe) else settings.weights
        for index, group in enumerate(optimiser.param_groups):
            heads_lr = recipe.heads_lr if index == 1 and isinstance(recipe, WeightOptimiserRecipe) else None
            scheduled = factor(recipe.schedule, epoch=epoch, progress=progress, steps=steps)
            group["lr"] = (heads_lr or recipe.lr) * group.get("rate_factor", 1.0) * scheduled


def factor(schedule: ScheduleRecipe, *, epoch: int, progress: float, steps: int) -> float:
    """Returns what a schedule multiplies the first learning rate by (paper, sections A.1 `step` and A.2 `poly`).

    Args:
        schedule: The schedule of one optimiser.
        epoch: Epochs that are complete.
        progress: The share of all steps that are done, in [0, 1).
        steps: Steps that are done.
    """
    # Step k of a warm-up has k / N of the rate, so that the first step already trains.
    warmth = min(1.0, (steps + 1) / schedule.warmup_steps) if schedule.warmup_steps else 1.0
    if schedule.kind == "step":
        return warmth * schedule.factor ** (epoch // schedule.step_epochs)
    if schedule.kind == "poly":
        return warmth * float((1 - progress) ** schedule.power)
    return warmth
