"""The tree of a branching row, searched at the run's shared network before the row is trained."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gate2static.budget import BranchingSearch, search_branching
from gate2static.budget.branching import TreeCosts, shared_branching
from gate2static.data import Splits
from gate2static.errors import BudgetError, RecipeError
from gate2static.models import MultiTaskNetwork, build_model
from gate2static.recipe import ArchitectureRecipe, Recipe, parse
from gate2static.tasks import Task
from gate2static.train.atomic import write_atomically
from gate2static.train.deciding import shown_batches
from gate2static.train.loop import checkpoints
from gate2static.train.processes.devices import on_first_process

if TYPE_CHECKING:
    from lightning_fabric import Fabric

FILE = "branching.json"
"""What the search found, beside the row's checkpoints."""
_SHOWN = 10
"""The trees that are written."""


def check_tree_search(recipe: Recipe, wanted: ArchitectureRecipe) -> None:
    """Raises a RecipeError before training where no tree is within the row's MACs."""
    if wanted.macs is None:
        return
    backbone, heads, examples = build_model(recipe, initial_weights=False)
    of_tasks = {task.name: heads[task.name] for task in recipe.tasks}
    places = wanted.places or "stages"
    network = shared_branching(backbone, heads=of_tasks, example_inputs=examples, places=places)
    try:
        TreeCosts.of(network, examples).limit(wanted.macs)
    except BudgetError as error:
        raise RecipeError(f"architectures: branching: {error}") from error


def with_tree(
    wanted: ArchitectureRecipe,
    recipe: Recipe,
    run_dir: Path,
    tasks: tuple[Task, ...],
    splits: Splits,
    *,
    fabric: "Fabric",
) -> ArchitectureRecipe:
    """Returns an architecture of a recipe with its tree; one without a limit of MACs is returned as it is.

    The tree is that of the row's checkpoint, where there is one.

    Args:
        wanted: The architecture.
        recipe: The run's recipe.
        run_dir: The run's folder, with the trained shared network.
        tasks: The recipe's tasks.
        splits: The data; affinities are measured on `train`.
        fabric: The processes and devices; the first process's tree is everybody's.

    Raises:
        CheckpointError: The shared network is missing or belongs to another recipe.
        TrainingError: The result of the search cannot be written.
    """
    if wanted.macs is None:
        return wanted
    folder = run_dir / wanted.label
    path = folder / checkpoints.FILE
    if path.exists():
        identity = checkpoints.load_checkpoint(path)["identity"]
        return parse(ArchitectureRecipe, identity.get("architecture", {}), where=f"{path}: its architecture")
    backbone, heads, examples = build_model(recipe, initial_weights=False)
    network = MultiTaskNetwork(backbone, heads)
    shared = run_dir / "shared" / checkpoints.kept(recipe)
    checkpoints.load_weights(network, checkpoints.load_checkpoint(shared)["model"], where=str(shared))
    device = fabric.device
    network.to(device)
    shown, losses = shown_batches(recipe, tasks, splits, recipe.training.shared.batch_size, device=device)
    found = search_branching(
        backbone,
        heads={task.name: heads[task.name] for task in tasks},
        example_inputs=tuple(example.to(device) for example in examples),
        batches=shown,
        losses=losses,
        macs=wanted.macs,
        places=wanted.places or "stages",
    )
    on_first_process(fabric, partial(_write, folder, found))
    # Rounding may differ between devices, and all processes train one tree.
    groups = fabric.broadcast(found.trees[0].groups)
    return ArchitectureRecipe(name=wanted.name, places=wanted.places, options={**wanted.options, "groups": groups})


def _write(folder: Path, found: BranchingSearch) -> None:
    """Writes what a search found as JSON, its best trees first."""
    content = {
        "tried": found.tried,
        "count": found.count,
        "trees": [vars(tree) for tree in found.trees[:_SHOWN]],
        "affinities": found.affinities.tolist(),
    }
    write_atomically(folder / FILE, (json.dumps(content, indent=2) + "\n").encode())
