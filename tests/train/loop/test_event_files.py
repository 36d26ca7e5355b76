"""TensorBoard's event files hold the rows of the logs, every step once, also after a resume."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from torch import nn

from gate2static.errors import MissingDependencyError, TrainingError
from gate2static.recipe import Recipe
from gate2static.train import train
from gate2static.train.loop.event_files import EventFiles
from gate2static.train.loop.loggers import Loggers
from gate2static.train.loop.network_run import NetworkRun
from gate2static.train.loop.position import Position

Read = Callable[[Path], dict[str, list[tuple[int, float]]]]


@pytest.fixture(scope="module")
def read() -> Read:
    """Reads all event files of a folder: tag -> (step, value) in the order of writing."""
    pytest.importorskip("tensorboard", reason="event files need tensorboard: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
        events = EventAccumulator(str(folder)).Reload()
        return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    return scalars


@pytest.fixture
def run(small: Recipe, tmp_path: Path) -> NetworkRun:
    return NetworkRun(name="shared", kind="shared", model=nn.Identity(), tasks=(), recipe=small, run_dir=tmp_path)


def position(epochs: int) -> Position:
    log = [{"epoch": epoch, "loss/total": 0.5 * epoch} for epoch in range(1, epochs + 1)]
    conflict = [{"step": 10 * epoch, "gds": 0.25 * epoch} for epoch in range(epochs)]
    return Position(epoch=epochs, log=log, conflict=conflict)


def test_rows_stand_at_their_epochs_and_steps(read: Read, run: NetworkRun, tmp_path: Path) -> None:
    files = EventFiles(run)
    loggers = Loggers(files)
    for epochs in (1, 2):
        loggers.write(position(epochs))
    files.close()
    assert read(tmp_path / "shared") == {
        "loss/total": [(1, 0.5), (2, 1.0)],
        "conflict/gds": [(0, 0.0), (10, 0.25)],
    }


def test_a_step_that_a_killed_process_wrote_shows_once(read: Read, run: NetworkRun, tmp_path: Path) -> None:
    killed = EventFiles(run)
    Loggers(killed).write(position(3))
    (tmp_path / "shared" / "events.out.tfevents.1.host.1.0").write_bytes(b"")  # somebody else's
    resumed = EventFiles(run)
    loggers = Loggers(resumed)
    for epochs in (2, 3):
        loggers.write(position(epochs))
    resumed.close()
    assert [step for step, _ in read(tmp_path / "shared")["loss/total"]] == [1, 2, 3]
    assert (tmp_path / "shared" / "events.out.tfevents.1.host.1.0").exists()
    killed.close()


def test_a_folder_that_cannot_be_written_is_named(
    read: Read, run: NetworkRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = EventFiles(run)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files._writer, "flush", full)
    with pytest.raises(TrainingError, match="shared: cannot write TensorBoard's event files: No space left on device"):
        Loggers(files).write(position(1))
    files.close()


def test_a_missing_tensorboard_is_noticed_before_training(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    training = small.training.model_copy(update={"tensorboard": True})
    wants = small.model_copy(update={"training": training})
    with pytest.raises(MissingDependencyError, match=r"pip install tensorboard"):
        train(wants, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_that_is_resumed_shows_what_its_logs_say(
    read: Read, small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A second logger, which gets the same rows.
    library = MagicMock(Error=OSError)
    monkeypatch.setitem(sys.modules, "wandb", library)
    training = small.training.model_copy(update={"tensorboard": True, "wandb": True, "conflict_steps": 1})
    wants = small.model_copy(update={"training": training})
    for resume in (False, True):
        train(wants, tmp_path, resume=resume, progress=False)
    for network in ("separate/left", "shared", "gated-60"):
        with (tmp_path / network / "log.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        loss = read(tmp_path / network)["loss/total"]
        assert loss == [(int(row["epoch"]), pytest.approx(float(row["loss/total"]))) for row in rows]
    with (tmp_path / "shared" / "conflict.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert [step for step, _ in read(tmp_path / "shared")["conflict/gds"]] == steps
    log = library.init.return_value.log
    rows = [call.args[0] for call in log.call_args_list if "epoch" in call.args[0]]
    with (tmp_path / "gated-60" / "log.csv").open(newline="") as file:
        assert {name: float(value) for name, value in list(csv.DictReader(file))[-1].items()} == rows[-1]
    assert library.init.return_value.finish.call_count == library.init.call_count
