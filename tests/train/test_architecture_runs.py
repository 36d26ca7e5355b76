"""Runs with architectures: what is refused before anything is trained, and what a run costs."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from gate2static.architectures import check_options
from gate2static.data import describe_data
from gate2static.errors import RecipeError
from gate2static.recipe import load_recipe
from gate2static.tasks import build_tasks
from gate2static.train import runs, sweep
from gate2static.train.architectures.branching import with_tree
from gate2static.train.architectures.retraining import with_policies
from gate2static.train.loop.balanced import check_recipe
from gate2static.train.loop.checkpoints import load_checkpoint
from gate2static.train.networks import build_architecture

TINY = Path("recipes/digits_tiny.yaml")
TASKS = "tasks=[{name: left, kind: classification}, {name: mask, kind: mask}]"
STITCH = "architectures=[cross_stitch]"


@pytest.mark.parametrize("option", ["heads", "places", "name", "backbone", "example_inputs", "stages"])
def test_options_named_as_arguments_are_unknown_options(option: str) -> None:
    recipe = load_recipe(TINY, [f"architectures=[{{name: nddr, options: {{{option}: 1}}}}]"])
    with pytest.raises(RecipeError, match=f"architectures: nddr has no option '{option}'; allowed: other, own"):
        build_architecture(recipe, recipe.architectures[0])


def test_methods_and_architectures_exclude_each_other(tmp_path: Path) -> None:
    recipe = load_recipe(TINY, ["sweep=[]", STITCH, "training.shared.balancing=pcgrad"])
    with pytest.raises(RecipeError, match=r"training\.shared\.balancing: methods train shared and gated networks only"):
        sweep(recipe, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("others", [STITCH, "sweep_balancing=[pcgrad]"])
def test_a_sweep_without_gated_networks_needs_no_values_with_a_budget(
    others: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match=r"nothing to sweep; .* or set sweep: \[\] to train without gated networks"):
        sweep(load_recipe(TINY, [others, "budget={macs: 0.7}"]), tmp_path, progress=False)
    trained = MagicMock()
    monkeypatch.setattr(runs, "train_variants", trained)
    sweep(load_recipe(TINY, [others, "budget={macs: 0.7}", "sweep=[]"]), tmp_path, progress=False)
    trained.assert_called_once()


def test_architectures_cost_what_the_shared_network_s_epochs_say() -> None:
    epochs = {"single": 1, "shared": 10, "gated": 100}
    sets = [f"training.{kind}={{epochs: {count}, batch_size: 10}}" for kind, count in epochs.items()]
    recipe = load_recipe(TINY, [TASKS, *sets])
    rows: dict[str, Any] = dict.fromkeys(("separate", "shared", "cross_stitch", "gated-0.1"))
    # Two single-task networks, one shared network, and three streams each of the others; ten steps make an epoch.
    assert runs._total_cost(recipe, 100, rows, {"cross_stitch"}) == 10 * (2 * 1 + 10 + 3 * 10 + 3 * 100)


def test_macs_that_no_tree_has_are_refused_before_training(tmp_path: Path) -> None:
    recipe = load_recipe(TINY, [TASKS, "sweep=[]", "architectures=[{name: branching, macs: 0.2}]"])
    with pytest.raises(RecipeError, match=r"architectures: branching: macs is 0\.2, and the shared network takes"):
        sweep(recipe, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_rows_that_follow_from_others_are_trained_as_these_say(tmp_path: Path) -> None:
    """A tree that is searched at the shared network, and policies that are drawn from what AdaShare learned."""
    sets = [
        "data.options={train_images: 32, val_images: 10, test_images: 20}",
        TASKS,
        *(f"training.{kind}={{epochs: 1, batch_size: 16}}" for kind in ("single", "shared", "gated")),
        "sweep=[]",
        "architectures=[{name: branching, macs: 0.8}, adashare, {name: adashare, retrain: true}]",
    ]
    recipe = load_recipe(TINY, sets)
    result = sweep(recipe, tmp_path, progress=False)
    rows = {row.name: row for row in result.rows}
    assert list(rows)[2:] == ["branching-macs0.8", "adashare", "adashare-retrained"]
    row = rows["branching-macs0.8"]
    assert rows["shared"].macs <= row.macs <= 0.8 * rows["separate"].macs
    found = json.loads((tmp_path / row.name / "branching.json").read_text())
    assert found["trees"][0]["macs"] == row.macs
    tree, _, retrained = recipe.architectures
    wanted = with_policies(retrained, recipe, tmp_path)
    assert set(wanted.options) == {"skips"}
    stored = load_checkpoint(tmp_path / "adashare-retrained" / "ckpt.pt")
    assert stored["identity"]["architecture"] == wanted.model_dump(mode="json")
    assert sweep(recipe, tmp_path, resume=True, progress=False) == result
    # The tree is that of the checkpoint, whatever the search would find now.
    (tmp_path / "shared" / "ckpt.pt").unlink()
    kept = with_tree(tree, recipe, tmp_path, (), MagicMock(), fabric=MagicMock())
    assert json.loads(json.dumps(kept.options["groups"])) == found["trees"][0]["groups"]


TABLES = [
    "benchmarks/architectures/multi_fashion",
    "recipes/cityscapes_safe_resnet50",
    "recipes/nyud_resnet50",
    "recipes/nyud_safe_resnet50",
    "recipes/pascal_resnet18",
    "recipes/pascal_safe_resnet18",
    "recipes/taskonomy_safe_resnet18",
]


@pytest.mark.parametrize("stem", TABLES)
def test_recipes_of_tables_name_rows_that_exist(stem: str) -> None:
    recipe = load_recipe(Path(f"{stem}.yaml"))
    assert recipe.architectures
    build_tasks(recipe.tasks, describe_data(recipe.data))
    for wanted in recipe.architectures:
        check_options(wanted.name, wanted.options)
    for variant in runs.shared_variants(recipe).values():
        check_recipe(variant)


def test_the_twin_on_clothes_has_the_rows_of_the_tables() -> None:
    twin = load_recipe(Path(f"{TABLES[0]}.yaml"))
    table = load_recipe(Path(f"{TABLES[1]}.yaml"))
    of_bi_level = {"smtl-held_out0.2", "smtl-held_out0.2-unrolledTrue"}  # table 6
    labels = [{wanted.label for wanted in recipe.architectures} for recipe in (twin, table)]
    assert labels[0] == labels[1] | of_bi_level


@pytest.mark.slow
def test_a_table_s_architecture_is_built_with_its_heads() -> None:
    changes = ["model.options={pretrained: false, width: 0.0625}"]
    narrow = load_recipe(Path("recipes/cityscapes_safe_resnet50.yaml"), changes)
    network = build_architecture(narrow, narrow.architectures[1])
    assert network.tasks == tuple(task.name for task in narrow.tasks)
