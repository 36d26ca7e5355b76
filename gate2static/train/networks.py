"""The networks of a run: built from a recipe, or loaded from a run's checkpoints."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gate2static.architectures import Architecture, architecture, as_gated, check_options
from gate2static.architectures.with_own_networks import WithOwnNetworks
from gate2static.errors import ArchitectureError, CheckpointError, RecipeError
from gate2static.gates import GatedModel, gate, set_gates
from gate2static.models import MultiTaskNetwork, build_model
from gate2static.recipe import ArchitectureRecipe, Recipe, parse
from gate2static.train.loop import checkpoints

State = dict[str, Tensor]
"""A state dict."""


def build_single(recipe: Recipe, task: str, *, initial_weights: bool = True) -> MultiTaskNetwork:
    """Builds the single-task network of one task with its first weights; all tasks start from the same backbone."""
    backbone, heads, _ = build_model(recipe, initial_weights=initial_weights)
    return MultiTaskNetwork(backbone, {task: heads[task]})


def build_shared(recipe: Recipe) -> MultiTaskNetwork:
    """Builds the shared network with its first weights: one backbone, and one head per task."""
    backbone, heads, _ = build_model(recipe)
    return MultiTaskNetwork(backbone, heads)


def build_architecture(recipe: Recipe, wanted: ArchitectureRecipe) -> Architecture:
    """Builds an architecture with the first weights of the recipe's backbone and heads.

    Raises:
        RecipeError: There is no such architecture or option, or the backbone does not allow it.
    """
    backbone, heads, examples = build_model(recipe)
    try:
        # An option with the name of an argument of `architecture` would take that argument's place.
        check_options(wanted.name, wanted.options)
        return architecture(
            wanted.name,
            backbone,
            heads={task.name: heads[task.name] for task in recipe.tasks},
            example_inputs=examples,
            places=wanted.places,
            **wanted.options,
        )
    except ArchitectureError as error:
        raise RecipeError(f"architectures: {error}") from error


def build_gated(recipe: Recipe, run_dir: Path) -> GatedModel:
    """Builds the gated network as its training starts.

    Task branches and heads start as the run's single-task networks (section 4.1 of the paper), as its shared network,
    or with the first weights, as `gating.branch_init` says. The shared branch starts as the shared network or with the
    backbone's first weights, as `gating.shared_init` says.

    Args:
        recipe: The run's recipe.
        run_dir: The run's folder, with the trained baselines.

    Raises:
        CheckpointError: A baseline is missing or belongs to another recipe.
    """
    gating = recipe.gating
    file = checkpoints.kept(recipe)
    if gating.branch_init == "shared":
        return build_at_shared(recipe, run_dir)
    starts: dict[str, State] = {}
    if gating.branch_init == "single":
        starts = {task.name: _plain_state(run_dir / "separate" / task.name / file) for task in recipe.tasks}
    shared = None
    if gating.branch_init == "single" and gating.shared_init == "shared":
        shared = _part(_plain_state(run_dir / "shared" / file), "backbone")
    return _gate(recipe, shared, starts, initial_weights=shared is None)


def build_at_shared(recipe: Recipe, run_dir: Path) -> GatedModel:
    """Builds the gated network with every branch and head as in the run's shared network.

    Args:
        recipe: The run's recipe; `gating.branch_epoch` says which epoch of the shared network.
        run_dir: The run's folder, with the trained shared network.

    Raises:
        CheckpointError: The shared network is missing or belongs to another recipe.
    """
    epoch = recipe.gating.branch_epoch
    file = checkpoints.kept(recipe) if epoch is None else checkpoints.epoch_file(epoch)
    state = _plain_state(run_dir / "shared" / file)
    return _gate(recipe, _part(state, "backbone"), {task.name: state for task in recipe.tasks})


def build_untrained(recipe: Recipe) -> GatedModel:
    """Builds the gated network with random weights, which is enough to find out what its gates can cost."""
    return _gate(recipe, None, {})


def single_networks(recipe: Recipe, run_dir: Path) -> dict[str, MultiTaskNetwork]:
    """Loads the run's trained single-task networks, by task.

    Raises:
        CheckpointError: A network is missing or belongs to another recipe.
    """
    networks = {}
    for task in recipe.tasks:
        path = run_dir / "separate" / task.name / checkpoints.kept(recipe)
        networks[task.name] = build_single(recipe, task.name, initial_weights=False)
        checkpoints.load_weights(networks[task.name], _plain_state(path), where=str(path))
    return networks


def gated_baseline(run_dir: str | Path, which: Literal["separate", "shared"]) -> GatedModel:
    """Loads one of a run's two baselines as a gated network, which is pruned, exported and timed like any other.

    Args:
        run_dir: A folder that `train` or `sweep` wrote.
        which: `separate` for the single-task networks, with all gates task-specific, or `shared` for the shared
            network, with all gates shared.

    Raises:
        CheckpointError: A network of the baseline is missing in the folder.
    """
    run_dir = Path(run_dir)
    if which == "shared":
        last = run_dir / "shared" / checkpoints.FILE
        recipe = _recipe(checkpoints.load_checkpoint(last), last)
        return _all_shared(recipe, _plain_state(last.with_name(checkpoints.kept(recipe))))
    singles = sorted((run_dir / "separate").glob(f"*/{checkpoints.FILE}"))
    if not singles:
        raise CheckpointError(f"{run_dir}: no single-task networks in {run_dir / 'separate'}; train the run first")
    # All single-task networks of a run have the same recipe.
    recipe = _recipe(checkpoints.load_checkpoint(singles[0]), singles[0])
    file = checkpoints.kept(recipe)
    states = {task.name: _plain_state(run_dir / "separate" / task.name / file) for task in recipe.tasks}
    gated = _gate(recipe, None, states)
    set_gates(gated, True)
    return gated.eval()


def load_gated(path: str | Path) -> tuple[GatedModel, Recipe]:
    """Rebuilds the network of a checkpoint from its recipe and weights alone.

    Args:
        path: The `ckpt.pt` of a gated network, or of the shared network or an architecture, which becomes a gated
            network with all gates shared.

    Returns:
        The network in evaluation mode, and its recipe.

    Raises:
        CheckpointError: The file cannot be read (`load_checkpoint`), does not fit its own recipe, or holds a
            single-task network.
    """
    path = Path(path)
    content = checkpoints.load_checkpoint(path)
    recipe = _recipe(content, path)
    if content["kind"] == "shared":
        return _all_shared(recipe, content["model"]), recipe
    if content["kind"] == "architecture":
        _, _, examples = build_model(recipe, initial_weights=False)
        return as_gated(architecture_of(recipe, content, path), examples), recipe
    if content["kind"] != "gated":
        raise CheckpointError(f"{path}: holds a single-task network; give the checkpoint of a gated or shared network")
    gated = _gate(recipe, None, {}, stored=content["model"], where=str(path))
    checkpoints.load_weights(gated, content["model"], where=str(path))
    return gated.eval(), recipe


def recipe_of(path: Path) -> Recipe | None:
    """Returns the recipe that a checkpoint's network was trained with; None where no recipe made it.

    Args:
        path: A checkpoint, or a run's folder of single-task networks, which all have the same recipe.

    Raises:
        CheckpointError: The checkpoint cannot be read.
    """
    files = sorted(path.glob(f"*/{checkpoints.FILE}")) if path.is_dir() else [path]
    if not files:
        return None
    content = checkpoints.read_checkpoint(files[0])
    return _recipe(content, files[0]) if content.get("recipe") else None


def _gate(
    recipe: Recipe,
    shared: State | None,
    singles: dict[str, State],
    *,
    initial_weights: bool = False,
    stored: State | None = None,
    where: str = "",
) -> GatedModel:
    """Gates a recipe's backbone.

    Args:
        recipe: The run's recipe.
        shared: The shared branch's weights; None keeps the backbone's.
        singles: Weights of whole single-task networks by task, for the task branches and heads.
        initial_weights: Whether the backbone gets its first weights, such as pretrained ones.
        stored: The weights of the gated network that will be loaded; None where none will be.
        where: The origin of `stored`, for the error message.

    Raises:
        CheckpointError: The recipe describes a network that is much larger than `stored`.
    """
    backbone, heads, examples = build_model(recipe, initial_weights=initial_weights)
    if stored is not None:
        _check_size(backbone, len(recipe.tasks), stored, where)
    for task, state in singles.items():
        checkpoints.load_weights(heads[task], _part(state, f"heads.{task}"), where=f"the head of {task}")
    # The first α and β follow from the recipe's seed, wherever the network is built.
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return gate(
            backbone,
            tasks=[task.name for task in recipe.tasks],
            example_inputs=examples,
            heads=heads,
            group_size=recipe.gating.group_size,
            gate_init=recipe.gating.gate_init,
            gate_init_std=recipe.gating.gate_init_std,
            mixing=recipe.gating.mixing,
            tie_residual=recipe.gating.tie_residual,
            shared_state=shared,
            task_states={task: _part(state, "backbone") for task, state in singles.items()},
        )


def _check_size(backbone: nn.Module, tasks: int, stored: State, where: str) -> None:
    """Raises a CheckpointError before T+1 branches are made, if the weights are those of a much smaller network."""
    needed = (tasks + 1) * sum(parameter.numel() for parameter in backbone.parameters())
    found = sum(value.numel() for value in stored.values())
    if 2 * found < needed:
        raise CheckpointError(
            f"{where}: for another model: it holds {found:,} numbers, and its recipe's network of {tasks} tasks has "
            f"{needed:,}; use the recipe it was trained with"
        )


def _all_shared(recipe: Recipe, state: State) -> GatedModel:
    """Builds the shared network with these weights as a gated network whose gates are all shared."""
    backbone, heads, examples = build_model(recipe, initial_weights=False)
    checkpoints.load_weights(MultiTaskNetwork(backbone, heads), state, where="the shared network")
    tasks = [task.name for task in recipe.tasks]
    gated = gate(backbone, tasks=tasks, example_inputs=examples, heads=heads)
    set_gates(gated, False)
    return gated.eval()


def architecture_of(recipe: Recipe, content: dict[str, Any], path: Path) -> Architecture:
    """Rebuilds a trained architecture, with the networks that tasks took where it was made safe.

    Args:
        recipe: The recipe of the checkpoint.
        content: The checkpoint's content.
        path: The checkpoint, for messages.

    Raises:
        CheckpointError: The weights do not fit the architecture.
    """
    wanted = parse(ArchitectureRecipe, content["identity"].get("architecture", {}), where=f"{path}: its architecture")
    network = build_architecture(recipe, wanted)
    tasks = [task.name for task in recipe.tasks]
    if own := [task for task in tasks if any(key.startswith(f"own.{task}.") for key in content["model"])]:
        network = WithOwnNetworks(network, {task: build_single(recipe, task, initial_weights=False) for task in own})
    checkpoints.load_weights(network, content["model"], where=str(path))
    return network


def _plain_state(path: Path) -> State:
    state: State = checkpoints.load_checkpoint(path)["model"]
    return state


def _part(state: State, prefix: str) -> State:
    """Returns the entries of a state dict below a prefix, without the prefix."""
    return {key.removeprefix(f"{prefix}."): value for key, value in state.items() if key.startswith(f"{prefix}.")}


def _recipe(content: dict[str, Any], path: Path) -> Recipe:
    return parse(Recipe, content["recipe"], where=f"{path}: the recipe inside")
