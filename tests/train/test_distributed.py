"""Several processes train the network that one trains."""

import csv
from pathlib import Path
from typing import Any

import pytest

from gate2static.recipe import Recipe
from gate2static.train import RunResult, train
from gate2static.train.checkpoints import load_checkpoint

Run = tuple[Path, RunResult]


def one_epoch(recipe: Recipe, devices: int) -> Recipe:
    # Adam divides by the gradient's size, so where that is nearly 0 it makes differences in rounding as large as a
    # step. A few short steps are too few for that.
    weights = recipe.training.gated.weights.model_copy(update={"lr": 2e-4})
    gated = recipe.training.gated.model_copy(update={"epochs": 1, "weights": weights})
    training = recipe.training.model_copy(update={"devices": devices, "gated": gated})
    return recipe.model_copy(update={"training": training})


@pytest.fixture(scope="session")
def runs(small: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    folders = [tmp_path_factory.mktemp(f"processes{n}") for n in (1, 2)]
    one, both = (train(one_epoch(small, n), folder, progress=False) for n, folder in enumerate(folders, start=1))
    return (folders[0], one), (folders[1], both)


@pytest.mark.parametrize("network", ["separate/left", "separate/mask", "shared", "gated-200"])
def test_two_processes_give_the_weights_of_one(runs: tuple[Run, Run], network: str) -> None:
    contents: list[dict[str, Any]] = [load_checkpoint(folder / network / "ckpt.pt") for folder, _ in runs]
    one, both = (content["model"] for content in contents)
    assert one.keys() == both.keys()
    assert max(float((one[key].double() - both[key].double()).abs().max()) for key in one) < 1e-5
    # Both have random states, and the second process's are others.
    assert "random_of_others" not in contents[0]
    assert len(contents[1]["random_of_others"]) == 1


def test_two_processes_log_and_measure_what_one_does(runs: tuple[Run, Run]) -> None:
    (first, one), (second, both) = runs
    logs = list(first.rglob("log.csv"))
    assert len(logs) == 4
    for log in logs:
        with log.open() as a, (second / log.relative_to(first)).open() as b:
            for expected, found in zip(csv.DictReader(a), csv.DictReader(b), strict=True):
                assert [*found] == [*expected]
                numbers = {key: float(value) for key, value in expected.items()}
                assert {key: float(value) for key, value in found.items()} == pytest.approx(numbers, rel=1e-4)
    for expected_row, found_row in zip(one.rows, both.rows, strict=True):
        assert found_row.metrics == pytest.approx(expected_row.metrics, rel=1e-4)
        assert (found_row.macs, found_row.parameters) == (expected_row.macs, expected_row.parameters)
