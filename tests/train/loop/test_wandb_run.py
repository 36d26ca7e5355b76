"""Runs of Weights & Biases get the rows of the logs, each with the column that says when it was measured."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from gate2static.errors import MissingDependencyError, TrainingError
from gate2static.recipe import Recipe
from gate2static.train import train
from gate2static.train.loop.loggers import Loggers
from gate2static.train.loop.network_run import NetworkRun
from gate2static.train.loop.position import Position
from gate2static.train.loop.wandb_run import WandbRun


class Library:
    """As much of `wandb` as a training uses."""

    class Error(Exception):
        """W&B's own."""

    def __init__(self, failure: str | None = None) -> None:
        self.failure = failure
        self.runs: list[dict[str, Any]] = []

    def init(self, **options: Any) -> SimpleNamespace:
        if self.failure:
            raise self.Error(self.failure)
        assert options["dir"].is_dir()  # W&B takes another folder where this one is missing
        run = {**options, "rows": [], "axes": {}, "finished": False}
        self.runs.append(run)
        return SimpleNamespace(
            log=run["rows"].append,
            define_metric=lambda name, step_metric: run["axes"].update({name: step_metric}),
            finish=lambda: run.update(finished=True),
        )


@pytest.fixture
def wants(small: Recipe) -> Recipe:
    return small.model_copy(update={"training": small.training.model_copy(update={"wandb": True})})


def test_rows_have_the_column_of_their_axis(wants: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setitem(sys.modules, "wandb", library)
    run = NetworkRun(name="shared", kind="shared", model=nn.Identity(), tasks=(), recipe=wants, run_dir=tmp_path)
    logger = WandbRun(run)
    loggers = Loggers(logger)
    position = Position(log=[{"epoch": 1, "loss/total": 0.5}], conflict=[{"step": 10, "gds": 0.25}])
    loggers.write(position)
    position.log.append({"epoch": 2, "loss/total": 0.25})
    loggers.write(position)
    logger.close()
    (made,) = library.runs
    assert made["rows"] == [
        {"epoch": 1, "loss/total": 0.5},
        {"step": 10, "conflict/gds": 0.25},
        {"epoch": 2, "loss/total": 0.25},
    ]
    assert made["axes"] == {"*": "epoch", "conflict/*": "step"}
    assert (made["name"], made["group"], made["dir"], made["finished"]) == (
        "shared", tmp_path.name, tmp_path / "shared", True,
    )  # fmt: skip
    assert made["config"]["training"]["wandb"] is True


def test_a_library_that_starts_no_run_is_one_line(
    wants: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Library("api_key not configured (no-tty)"))
    match = r"separate/left: .* api_key not configured \(no-tty\); log in with `wandb login`, set WANDB_MODE=offline"
    with pytest.raises(TrainingError, match=match):
        train(wants, tmp_path / "run", progress=False)


def test_a_missing_library_is_noticed_before_training(
    wants: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingDependencyError, match="pip install wandb"):
        train(wants, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
