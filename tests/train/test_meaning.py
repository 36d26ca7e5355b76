"""A recipe says what its network's inputs and outputs mean."""

from pathlib import Path

import pytest

from gate2static.data import describe_data
from gate2static.recipe import load_recipe
from gate2static.static import Manifest, TensorSpec
from gate2static.static.manifest import Costs
from gate2static.tasks import build_tasks
from gate2static.train.meaning import meaning

RECIPES = sorted(Path("recipes").glob("*.yaml"))


def manifest_for(recipe) -> Manifest:
    spec = describe_data(recipe.data)
    tasks = build_tasks(recipe.tasks, spec)
    costs = Costs(static=1, gated=1, shared=1, separate=1)
    maps = {task.name: spec.image_shape[1:] if task.kind.dense else () for task in tasks}
    return Manifest(
        tasks=tuple(task.name for task in tasks),
        inputs=(TensorSpec(name="x", shape=spec.image_shape, dtype="float32"),),
        outputs=tuple(
            TensorSpec(name=task.name, shape=(task.channels, *maps[task.name]), dtype="float32") for task in tasks
        ),
        gates={},
        contributions={},
        macs=costs,
        parameters=costs,
        barriers={},
        versions={},
        digest="",
    )


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipes_network_can_be_described(path: Path) -> None:
    recipe = load_recipe(path)
    manifest = manifest_for(recipe)
    found = meaning(recipe, manifest)
    assert set(found.outputs) == {task.name for task in recipe.tasks}
    assert set(found.inputs) == {"x"}
    Manifest.model_validate({**manifest.model_dump(), "meaning": found.model_dump()})


def test_the_meaning_is_that_of_the_data_set() -> None:
    recipe = load_recipe(Path("recipes/digits_tiny.yaml"))
    found = meaning(recipe, manifest_for(recipe))
    assert found.inputs["x"].value_range == (-1, 1)
    assert found.inputs["x"].colours == "grey"
    assert found.outputs["left"].activation == "softmax"
    assert found.outputs["left"].classes == tuple("0123456789")
    assert found.outputs["mask"].activation == "sigmoid"


def test_a_network_of_fewer_tasks_is_described_for_those() -> None:
    recipe = load_recipe(Path("recipes/digits_tiny.yaml"))
    manifest = manifest_for(recipe)
    fewer = manifest.model_copy(update={"tasks": ("mask",), "outputs": manifest.outputs[2:]})
    assert set(meaning(recipe, fewer).outputs) == {"mask"}
