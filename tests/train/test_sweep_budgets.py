"""Sweeps over budgets: a gated network per budget, with gates that were decided before the training or are learned."""

from pathlib import Path

import pytest

from gate2static.errors import RecipeError
from gate2static.recipe import load_recipe
from gate2static.train import sweep, train

TINY = Path("recipes/digits_tiny.yaml")
SHORT = [
    "data.options={train_images: 48, val_images: 10, test_images: 20}",
    "tasks=[{name: left, kind: classification}, {name: mask, kind: mask}]",
    *(f"training.{kind}={{epochs: 1, batch_size: 16}}" for kind in ("single", "shared", "gated")),
]
DEPLOY = ["gating.preset=deploy", "sweep_budgets=[{macs: 0.7}, {macs: 0.9}]"]


@pytest.mark.slow
def test_every_budget_is_met_by_a_network_of_its_own(tmp_path: Path) -> None:
    result = sweep(load_recipe(TINY, [*SHORT, *DEPLOY]), tmp_path, progress=False)
    separate, shared, *gated = result.rows
    assert [row.name for row in gated] == ["gated-macs-0.7", "gated-macs-0.9"]
    for row, share in zip(gated, (0.7, 0.9), strict=True):
        assert shared.macs <= row.macs <= share * separate.macs


def test_training_one_network_needs_one_budget() -> None:
    with pytest.raises(RecipeError, match="need a budget, such as budget"):
        train(load_recipe(TINY, [*SHORT, *DEPLOY]), "never", progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["gating.preset=deploy"], "needs a budget"),
        (["sweep_budgets=[{macs: 0.7}, {macs: 0.7}]"], "sweep_budgets must hold different entries"),
        (["sweep_budgets=[{macs: {nothing: 0.7}}]"], r"sweep_budgets\.0\.macs: found nothing; the tasks are left"),
    ],
)
def test_budgets_that_do_not_fit_are_named(changes: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(TINY, [*SHORT, *changes])
