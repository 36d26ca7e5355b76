"""Runs with architectures: what is refused before anything is trained, and what a run costs."""

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from gate2static.errors import RecipeError
from gate2static.recipe import load_recipe
from gate2static.train import runs, sweep
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
