"""Gates that are decided before training: by saliency, at random, or by the names of modules."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gate2static.budget import decide_by_saliency
from gate2static.budget.ranking import let_sharers_win
from gate2static.budget.saliency import Losses
from gate2static.data import Splits
from gate2static.errors import RecipeError
from gate2static.gates import GatedModel, set_gates
from gate2static.recipe import Recipe
from gate2static.tasks import Task
from gate2static.train.loop import batches, random_state
from gate2static.train.networks import build_at_shared

_BATCHES = 50
"""Training batches that saliency and affinities are estimated from."""
_OPEN = 1e-3
"""The least α of gates that are drawn: positive, so that all are open before the budget closes some."""


def decide_gates(
    gated: GatedModel,
    recipe: Recipe,
    run_dir: Path,
    tasks: tuple[Task, ...],
    splits: Splits,
    *,
    device: torch.device | None = None,
) -> None:
    """Sets the gates of a network before its training, as `gating.decisions` says; learned ones stay.

    Saliency is estimated at the run's shared network, wherever the weights of the gated network start. Random and
    salient gates are only put in order: the budget decides how many of them stay open.

    Args:
        gated: The network, whose gates are changed in place.
        recipe: The run's recipe.
        run_dir: The run's folder, with the trained shared network.
        tasks: The recipe's tasks.
        splits: The data; saliency is estimated on `train`.
        device: The device to estimate saliency on; None is the CPU.

    Raises:
        RecipeError: `gating.private` names a module without gates.
        CheckpointError: The shared network is missing or belongs to another recipe.
    """
    decisions = recipe.gating.decisions
    if decisions == "modules":
        _open_modules(gated, recipe.gating.private)
    elif decisions == "random":
        generator = torch.Generator().manual_seed(recipe.seed)
        for alpha in _logits(gated):
            alpha.copy_(torch.rand(alpha.shape, generator=generator) + _OPEN)
        let_sharers_win(gated)
    elif decisions == "saliency":
        ancestor = build_at_shared(recipe, run_dir).to(device)
        shown, losses = shown_batches(recipe, tasks, splits, recipe.training.gated.batch_size, device=device)
        decide_by_saliency(ancestor, shown, losses, prefix=recipe.gating.prefix)
        for alpha, ranked in zip(_logits(gated), _logits(ancestor), strict=True):
            alpha.copy_(ranked)
        let_sharers_win(gated)


def shown_batches(
    recipe: Recipe, tasks: tuple[Task, ...], splits: Splits, batch_size: int, *, device: torch.device | None
) -> tuple[Iterator[tuple[Tensor, dict[str, Tensor]]], Losses]:
    """Returns training batches that gradients are estimated from, and the losses of the tasks on them.

    Args:
        recipe: The run's recipe.
        tasks: The recipe's tasks.
        splits: The data, of which `train` is shown.
        batch_size: The images of a training step.
        device: The device of the network; None is the CPU.
    """
    training = recipe.training
    # The parts that training divides a batch into fit in memory; two images are what batch norm needs.
    size = max(2, batch_size // training.accumulate)
    order = batches.epoch_order(batches.length(splits.train), size, seed=recipe.seed, epoch=0)
    loader = batches.train_loader(splits.train, order[:_BATCHES], epoch=0, workers=training.workers)
    # Dropout draws the same whatever was trained before.
    random_state.seed_everything(recipe.seed)

    def losses(outputs: Any, targets: Any) -> dict[str, Tensor]:
        return {t.name: t.weight * t.loss(outputs[t.name], targets[t.name].to(device)) for t in tasks}

    return ((images.to(device), targets) for images, targets in batches.loaded(loader)), losses


def _logits(gated: GatedModel) -> list[Tensor]:
    return [gate.alpha.detach() for gate in gated.gates.values()]


def _open_modules(gated: GatedModel, private: Mapping[str, Sequence[str]]) -> None:
    """Makes the units of these modules task-specific for the tasks that name them, and all others shared."""
    gates = gated.gates
    decisions = {unit: torch.zeros(gate.alpha.shape, dtype=torch.bool) for unit, gate in gates.items()}
    modules = {node.name: str(node.target) for node in gated.program.graph.nodes if node.name in gates}
    for task, paths in private.items():
        for path in paths:
            inside = [unit for unit, module in modules.items() if not path or f"{module}.".startswith(f"{path}.")]
            if not inside:
                raise RecipeError(
                    f"gating.private: there are no gates in {path}; the modules with gates are "
                    f"{', '.join(modules.values())}"
                )
            for unit in inside:
                decisions[unit][gated.tasks.index(task)] = True
    set_gates(gated, decisions)
    for unit, gate in gates.items():
        if gate.hard:
            # A task that shares wins: what a task has for itself would train on all tasks' losses as the shared stream.
            gate.beta.detach().copy_((~decisions[unit]).to(gate.beta))
