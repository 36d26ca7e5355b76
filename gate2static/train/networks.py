"""The networks of a run, fresh from a recipe or out of a run's checkpoints."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gate2static.errors import CheckpointError
from gate2static.gates import GatedModel, gate, set_gates
from gate2static.models import MultiTaskNetwork, build_model
from gate2static.recipe import Recipe, parse
from gate2static.train.loop import checkpoints

State = dict[str, Tensor]


def build_single(recipe: Recipe, task: str) -> MultiTaskNetwork:
    """The single-task network of one task, with its first weights; all start from the same backbone."""
    backbone, heads, _ = build_model(recipe)
    return MultiTaskNetwork(backbone, {task: heads[task]})


def build_shared(recipe: Recipe) -> MultiTaskNetwork:
    """The shared network: one backbone and every task's head, with its first weights."""
    backbone, heads, _ = build_model(recipe)
    return MultiTaskNetwork(backbone, heads)


def build_gated(recipe: Recipe, run_dir: Path) -> GatedModel:
    """The gated network as its training starts (section 4.1 of the paper).

    Task branches and heads come from the run's single-task networks, the shared branch from the run's shared network or
    from the backbone's first weights, as `gating.shared_init` says.

    Raises:
        CheckpointError: A network it starts from is missing or is another recipe's.
    """
    file = checkpoints.kept(recipe)
    singles = {task.name: _plain_state(run_dir / "separate" / task.name / file) for task in recipe.tasks}
    shared = None
    if recipe.gating.shared_init == "shared":
        shared = _part(_plain_state(run_dir / "shared" / file), "backbone")
    return _gate(recipe, shared, singles, initial_weights=shared is None)


def build_untrained(recipe: Recipe) -> GatedModel:
    """The recipe's gated network with random weights: what its gates may cost does not depend on them."""
    return _gate(recipe, None, {})


def gated_baseline(run_dir: str | Path, which: Literal["separate", "shared"]) -> GatedModel:
    """One of a run's two baselines as a gated network, so that it can be pruned, exported and timed like any other.

    Args:
        run_dir: A folder that `train` or `sweep` wrote.
        which: `separate`: the single-task networks, all gates task-specific. `shared`: the shared network, all gates
            shared.

    Raises:
        CheckpointError: The run lacks the networks that the baseline is made of.
    """
    run_dir = Path(run_dir)
    if which == "shared":
        last = run_dir / "shared" / checkpoints.FILE
        recipe = _recipe(checkpoints.load_checkpoint(last), last)
        return _all_shared(recipe, _plain_state(last.with_name(checkpoints.kept(recipe))))
    found = sorted((run_dir / "separate").glob(f"*/{checkpoints.FILE}"))
    if not found:
        raise CheckpointError(f"{run_dir}: no single-task networks in {run_dir / 'separate'}; train the run first")
    recipe = _recipe(checkpoints.load_checkpoint(found[0]), found[0])
    file = checkpoints.kept(recipe)
    gated = _gate(recipe, None, {t.name: _plain_state(run_dir / "separate" / t.name / file) for t in recipe.tasks})
    set_gates(gated, True)
    return gated.eval()


def load_gated(path: str | Path) -> tuple[GatedModel, Recipe]:
    """Rebuilds the network of a checkpoint, in evaluation mode, from its recipe and weights alone.

    Args:
        path: A gated network's `ckpt.pt`, or the shared network's, which becomes a gated network whose gates are all
            shared.

    Raises:
        CheckpointError: It cannot be read (`load_checkpoint`), does not fit its own recipe, or holds a single-task
            network.
    """
    path = Path(path)
    content = checkpoints.load_checkpoint(path)
    recipe = _recipe(content, path)
    if content["kind"] == "shared":
        return _all_shared(recipe, content["model"]), recipe
    if content["kind"] != "gated":
        raise CheckpointError(f"{path}: holds a single-task network; give the checkpoint of a gated or shared network")
    gated = _gate(recipe, None, {})
    checkpoints.load_weights(gated, content["model"], where=str(path))
    return gated.eval(), recipe


def _gate(
    recipe: Recipe, shared: State | None, singles: dict[str, State], *, initial_weights: bool = False
) -> GatedModel:
    """Gates a recipe's backbone; `singles` holds whole single-task networks by task."""
    backbone, heads, examples = build_model(recipe, initial_weights=initial_weights)
    for task, state in singles.items():
        checkpoints.load_weights(heads[task], _part(state, f"heads.{task}"), where=f"the head of {task}")
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


def _all_shared(recipe: Recipe, state: State) -> GatedModel:
    backbone, heads, examples = build_model(recipe, initial_weights=False)
    checkpoints.load_weights(MultiTaskNetwork(backbone, heads), state, where="the shared network")
    tasks = [task.name for task in recipe.tasks]
    gated = gate(backbone, tasks=tasks, example_inputs=examples, heads=heads)
    set_gates(gated, False)
    return gated.eval()


def _plain_state(path: Path) -> State:
    state: State = checkpoints.load_checkpoint(path)["model"]
    return state


def _part(state: State, prefix: str) -> State:
    return {key.removeprefix(f"{prefix}."): value for key, value in state.items() if key.startswith(f"{prefix}.")}


def _recipe(content: dict[str, Any], path: Path) -> Recipe:
    return parse(Recipe, content["recipe"], where=f"{path}: the recipe inside")
