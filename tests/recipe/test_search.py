"""The part of a recipe that describes a search: what is refused, in one line, before anything is trained."""

from pathlib import Path

import pytest

from gate2static.errors import RecipeError
from gate2static.recipe import load_recipe, recipe_at
from gate2static.search.space import Span, checked_space, grid_points

TINY = Path("recipes/digits_tiny.yaml")


def _space(entry: str, rest: str = "trials: 2"):
    return checked_space(load_recipe(TINY, [f"search={{space: {{{entry}}}, {rest}}}"]))


@pytest.mark.parametrize(
    ("entry", "rest", "message"),
    [
        ("seed: [1, 2]", "trials: 2", "seed cannot vary: give the seeds in search.seeds"),
        ("gating.preset: [paper, deploy]", "trials: 2", "gating.preset cannot vary: it fills in other values"),
        ("safe.alpha: [0.05]", "trials: 2", "safe cannot vary: a search compares gated networks"),
        ("data.options.train_images: [1]", "trials: 2", "data cannot vary: results on other data"),
        ("sparsity_weight: 3", "trials: 2", "allowed are a list of values, {range"),
        ("sparsity_weight: [1, 1]", "trials: 2", "allowed are 1 to 1000 different values"),
        ("sparsity_weight: {log: [0, 1]}", "trials: 2", "log needs a low end above 0, found 0"),
        ("sparsity_weight: {range: [2, 1]}", "trials: 2", "with low < high"),
        ("sparsity_weight: {lin: [1, 2]}", "trials: 2", "allowed are a list of values, {range"),
        ("sparsity_weight: [1]", "sampler: tpe", "missing key trials: the number of points that tpe tries"),
        ("sparsity_weight: [1]", "sampler: grid, trials: 1", "grid tries all 1 points of the space; remove trials"),
        ("sparsity_weight: {log: [1, 2]}", "sampler: grid", "sparsity_weight is a range; give a list"),
        ("sparsity_weight: [1]", "trials: 1, objectives: [latency_ms]", "latency_ms needs a device"),
        ("sparsity_weight: [1]", "trials: 1, device: a100", "device is for the objective latency_ms"),
        ("sparsity_weight: [1]", "trials: 1, seeds: [1, 1]", "seeds must be different"),
        ("sparsity_weight: [1]", "trials: 1, stop_early: true", "stop_early needs objectives: [delta_mtl], since a"),
        ("sparsity_weight: [1]", "trails: 1", "unknown key search.trails; did you mean trials?"),
        # What only a whole recipe can say of a point:
        ("sparsity_wieght: [1]", "trials: 1", "unknown key sparsity_wieght; did you mean sparsity_weight?"),
        ("gating.group_sise: [1, 2]", "trials: 1", "unknown key gating.group_sise; did you mean group_size?"),
        ("gating.group_size: [1, wide]", "trials: 1", 'search.space at gating.group_size="wide": gating.group_size'),
        ("tasks.0.target: {range: [0.5, 1.5]}", "trials: 1", "search.space at tasks.0.target=1.5: tasks.0.target"),
        ("tasks.7.target: [0.5]", "trials: 1", "found item 7, allowed: 0 to 2"),
        ("training.gated.freeze_at: [0.5, 0.0]", "trials: 1", "freeze_at is 0, so no gate would learn"),
    ],
)  # fmt: skip
def test_a_wrong_search_is_refused_in_one_line(entry: str, rest: str, message: str) -> None:
    with pytest.raises(RecipeError) as refusal:
        _space(entry, rest)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_safe_networks_come_after_a_search() -> None:
    recipe = load_recipe(TINY, ["search={space: {sparsity_weight: [1]}, trials: 1}", "safe=true"])
    with pytest.raises(RecipeError, match="safe: a search compares gated networks; remove it"):
        checked_space(recipe)


def test_values_that_only_clash_together_are_found() -> None:
    both = "training.gated.freeze_at: [null, 0.0], gating.decisions: [learned, saliency], budget.macs: [0.5]"
    with pytest.raises(RecipeError, match="saliency decides before training"):
        _space(both)


def test_every_value_is_looked_at_where_the_combinations_are_too_many() -> None:
    lists = [f"tasks.{task}.target: [{', '.join(str(n / 20) for n in range(20))}]" for task in range(3)]
    with pytest.raises(RecipeError, match="gating.group_size=-1"):
        _space(", ".join([*lists, "gating.group_size: [1, 2, -1]"]))


def test_a_range_has_whole_numbers_where_its_key_has() -> None:
    space = _space("gating.group_size: {log: [1, 64]}, tasks.0.target: {range: [0, 1]}, sparsity_weight: {log: [1, 9]}")
    whole = {key: values.whole for key, values in space.items() if isinstance(values, Span)}
    assert whole == {"gating.group_size": True, "tasks.0.target": False, "sparsity_weight": False}


def test_drawn_numbers_can_be_typed_and_stay_inside() -> None:
    span = Span(low=0.012344, high=1.0, log=True, whole=False)
    assert [span.rounded(drawn) for drawn in (0.0123441, 0.31415926, 0.99999)] == [0.012344, 0.3142, 1.0]
    assert Span(low=1, high=9, log=False, whole=True).rounded(7) == 7


def test_a_grid_has_every_point_once() -> None:
    space = _space("sparsity_weight: [1, 2], gating.group_size: [1, layer]", "sampler: grid")
    points = [tuple(point.values()) for point in grid_points(space)]
    assert points == [(1, 1), (1, "layer"), (2, 1), (2, "layer")]


def test_a_point_changes_what_it_names_and_nothing_else() -> None:
    recipe = load_recipe(TINY, ["search={space: {sparsity_weight: [1]}, trials: 1}"])
    values = {"gating.group_size": "layer", "training.shared.balancing": "pcgrad", "budget.macs": 0.5}
    changed = recipe_at(recipe, values)
    assert (changed.gating.group_size, changed.training.shared.balancing.method) == ("layer", "pcgrad")
    assert changed.budget is not None
    assert changed.budget.macs == 0.5
    same = recipe_at(recipe, {})
    assert same == recipe.model_copy(update={"search": None})
    assert changed.data == recipe.data
    assert changed.training.single == recipe.training.single
