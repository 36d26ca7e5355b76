"""The training of one network as it is before the first step."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gate2static.budget import BudgetController
from gate2static.gates import GatedModel
from gate2static.gates.settled.settling import GateSettling
from gate2static.train.loop.balanced import ConflictMeter, build_balance
from gate2static.train.loop.network_run import NetworkRun
from gate2static.train.loop.optimisers import build_optimisers
from gate2static.train.loop.step import Training
from gate2static.train.processes.devices import freeze_unused

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_STRONGEST = 1.0
"""The largest λ in units of the tasks' push (`GateOptimiser`): it closes nearly everything."""
_NEVER = 2**31
"""More steps than any training has: gates settle only when all are frozen."""


def begin(run: NetworkRun, fabric: "Fabric", *, image: Tensor, epoch_steps: int) -> Training:
    """Moves a network to its devices and builds its optimisers, as they are before the first step.

    Args:
        run: The network and its settings.
        fabric: The processes and devices, launched.
        image: Any image of the data set, (C, H, W).
        epoch_steps: Optimiser steps per epoch.

    Raises:
        BudgetError: No setting of the gates meets the recipe's budget.
    """
    recipe = run.recipe.training
    run.model.to(fabric.device)
    if recipe.channels_last:
        run.model.to(memory_format=torch.channels_last)
    if fabric.world_size > 1:
        freeze_unused(run.model, image[None].to(fabric.device))
    controller = None
    for teacher in run.teachers.values():
        teacher.to(fabric.device).eval()
    if run.budget is not None and isinstance(run.model, GatedModel) and run.search > 0:
        controller = BudgetController(
            run.model,
            run.budget,
            weight=run.sparsity_weight,
            epochs=run.settings.epochs,
            epoch_steps=epoch_steps,
            search=run.search,
            most=_STRONGEST if run.gates_know_sparsity else math.inf,
        )
    # What is shared in other architectures is a matter of taste.
    measures = recipe.conflict_steps is not None and run.kind in ("shared", "gated")
    sharding = None
    if recipe.strategy == "fsdp" and fabric.world_size > 1 and isinstance(run.model, GatedModel):
        from gate2static.train.processes.sharding import Sharding  # some builds of torch lack what it needs

        sharding = Sharding(run.model)
    trained = run.model if sharding is None else sharding.model
    model = fabric.setup_module(_compiled(trained) if recipe.compile else trained, move_to_device=sharding is None)
    settling = None
    if isinstance(run.model, GatedModel) and recipe.gated.settle_steps is not None:
        settling = GateSettling(run.model, after_steps=recipe.gated.settle_steps)
    elif isinstance(run.model, GatedModel) and run.freezes:
        settling = GateSettling(run.model, after_steps=_NEVER)
    return Training(
        run=run,
        fabric=fabric,
        model=model,
        optimisers=build_optimisers(
            trained,
            run.settings,
            fused=recipe.precision != "16-mixed",
            search_steps=max(1, math.ceil(run.search * run.settings.epochs * epoch_steps)),
            sparsity_weight=run.sparsity_weight,
            targets=run.hinge_targets,
        ),
        controller=controller,
        settling=settling,
        balance=build_balance(run),
        meter=ConflictMeter(run) if measures else None,
        sharding=sharding,
    )


def _compiled(model: nn.Module) -> nn.Module:
    compiled: Any = torch.compile(model)
    assert isinstance(compiled, nn.Module)
    return compiled
