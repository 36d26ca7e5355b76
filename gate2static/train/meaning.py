"""What the inputs and outputs of a recipe's network mean, from its data set and its tasks."""

from pathlib import Path

from gate2static.data import describe_data
from gate2static.recipe import Recipe
from gate2static.static import Manifest
from gate2static.static.meaning import Meaning, Picture, Prediction
from gate2static.tasks import build_tasks
from gate2static.train.networks import recipe_of


def with_meaning(manifest: Manifest, checkpoint: Path) -> Manifest:
    """Returns a static network's manifest with the meaning of its inputs and outputs, where a recipe says it.

    Args:
        manifest: The static network's manifest.
        checkpoint: The checkpoint that it was pruned from, or a run's `separate/` folder.

    Raises:
        CheckpointError: The checkpoint cannot be read.
    """
    recipe = recipe_of(checkpoint)
    return manifest if recipe is None else manifest.model_copy(update={"meaning": meaning(recipe, manifest)})


def meaning(recipe: Recipe, manifest: Manifest) -> Meaning:
    """Returns the meaning of a network's inputs and outputs.

    Args:
        recipe: The recipe that it was trained with.
        manifest: The manifest of the network, which may have fewer tasks than the recipe.
    """
    spec = describe_data(recipe.data)
    pixels = spec.pixels
    picture = Picture(colours=pixels.colours, mean=pixels.mean, std=pixels.std)
    outputs = {}
    for task in build_tasks(recipe.tasks, spec):
        target = spec.targets[task.name]
        outputs[task.name] = Prediction(
            kind=target.kind,
            activation=task.kind.activation,
            unit=target.unit or task.kind.unit,
            classes=target.classes,
        )
    known = {output.name for output in manifest.outputs}
    return Meaning(
        inputs={value.name: picture for value in manifest.inputs if value.shape == spec.image_shape},
        outputs={name: prediction for name, prediction in outputs.items() if name in known},
    )
