"""What a budget may say, in a recipe and on the command line."""

import pytest

from gate2static.errors import RecipeError
from gate2static.recipe import Budget, Recipe, load_recipe, parse, parse_budget

TINY = "recipes/digits_tiny.yaml"


@pytest.mark.parametrize(
    ("overrides", "budget", "label"),
    [
        (["budget.macs=0.5"], Budget(macs=0.5), "macs-0.5"),
        (["budget.macs=2e6"], Budget(macs=2e6), "macs-2e+06"),
        (["budget.macs.left=0.3", "budget.macs.mask=1"], Budget(macs={"left": 0.3, "mask": 1}), "macs-left-0.3-mask-1"),
        (["budget={latency_ms: 8, device: b.json}"], Budget(latency_ms=8, device="b.json"), "latency_ms-8"),
        (["budget={latency: 0.5, device: b}"], Budget(latency=0.5, device="b"), "latency-0.5"),
    ],
)
def test_a_recipe_may_hold_one_kind_of_budget(overrides: list[str], budget: Budget, label: str) -> None:
    recipe = load_recipe(TINY, overrides)
    assert recipe.budget == budget
    assert budget.label == label
    assert parse(Recipe, recipe.model_dump(mode="json"), where="test") == recipe


def test_a_recipe_has_no_budget_unless_it_says_so() -> None:
    assert load_recipe(TINY).budget is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget={}", "exactly one of macs, latency_ms, latency, found none"),
        ("budget={macs: 1, latency: 0.5}", "exactly one of .*, found macs and latency"),
        ("budget.mac=1", r"unknown key budget\.mac; did you mean macs\?"),
        ("budget.macs=0", r"budget\.macs: found 0; allowed is a positive number"),
        ("budget.macs=true", r"budget\.macs: found True; allowed is a positive number"),
        ("budget.macs=.nan", "found .*; allowed is a positive number"),
        ("budget.macs={}", r"found \{\}; allowed is a positive number, or one per task"),
        ("budget.macs.left=many", "allowed is a positive number, or one per task"),
        ("budget.macs.centre=0.5", r"budget\.macs: found centre; the tasks are left, right, mask"),
        ("budget.latency_ms=8", "a budget of latency_ms needs a device; add device"),
        ("budget={latency: 8, device: b}", "at most 1, found 8; for milliseconds give latency_ms"),
        ("budget={macs: 0.5, device: b}", "a budget of macs has no device, found b"),
    ],
)
def test_a_wrong_budget_ends_in_one_line_that_names_it(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        load_recipe(TINY, [override])
    assert "\n" not in str(error.value)


def test_a_budget_has_a_weight_to_start_from() -> None:
    with pytest.raises(RecipeError, match="sparsity_weight is 0, and a budget steers it by factors"):
        load_recipe(TINY, ["budget.macs=0.5", "sparsity_weight=0"])


def test_the_command_line_speaks_of_a_budget_as_a_recipe_does() -> None:
    assert parse_budget(["latency_ms=8", "device=b.json"]) == Budget(latency_ms=8, device="b.json")
    assert parse_budget(["macs.left=0.5", "macs.mask=1"]) == Budget(macs={"left": 0.5, "mask": 1})
    with pytest.raises(RecipeError, match="--budget macs: expected key=value, such as macs=0.5"):
        parse_budget(["macs"])
    with pytest.raises(RecipeError, match="--budget: unknown key speed; allowed: device, latency, latency_ms, macs"):
        parse_budget(["speed=1"])
    with pytest.raises(RecipeError, match="--budget macs is given 2 times; give it once"):
        parse_budget(["macs=0.5", "macs=0.3"])
