"""The policies of an AdaShare row that is trained again: drawn from those that another row of the run learned."""

from pathlib import Path

from gate2static.architectures.adashare import AdaShare
from gate2static.recipe import ArchitectureRecipe, Recipe
from gate2static.train.loop import checkpoints
from gate2static.train.networks import build_architecture


def with_policies(wanted: ArchitectureRecipe, recipe: Recipe, run_dir: Path) -> ArchitectureRecipe:
    """Returns an architecture of a recipe with the policies to retrain; one without `retrain` is returned as it is.

    Args:
        wanted: The architecture.
        recipe: The run's recipe, whose seed is that of the draw.
        run_dir: The run's folder, with the trained row that learned the policies.

    Raises:
        CheckpointError: That row is missing or belongs to another recipe.
    """
    if not wanted.retrain:
        return wanted
    path = run_dir / wanted.before.label / checkpoints.kept(recipe)
    network = build_architecture(recipe, wanted.before)
    checkpoints.load_weights(network, checkpoints.load_checkpoint(path)["model"], where=str(path))
    assert isinstance(network, AdaShare)
    drawn = network.drawn_skips(recipe.seed)
    skips: dict[str, tuple[int | str, ...]] = {task: tuple(numbers) for task, numbers in drawn.items()}
    return ArchitectureRecipe(name=wanted.name, places=wanted.places, options={**wanted.options, "skips": skips})
