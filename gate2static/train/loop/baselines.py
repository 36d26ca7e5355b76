"""The baselines of another run, which a run takes instead of training its own."""

import os
from collections.abc import Iterable
from pathlib import Path
from shutil import copy2, copytree, rmtree

from gate2static.errors import CheckpointError, TrainingError
from gate2static.recipe import Recipe
from gate2static.train.loop.checkpoints import FILE, epoch_file, load_checkpoint
from gate2static.train.loop.network_run import Kind, identity
from gate2static.train.loop.resume import differences


def check_baselines(recipe: Recipe, other: Path) -> None:
    """Refuses the baselines of another run, unless the recipe would train the same ones.

    Args:
        recipe: The recipe of the run that wants them.
        other: The folder of the run that has them. Networks whose training was interrupted are taken too, and go on.

    Raises:
        CheckpointError: A network is missing, or depends on parts of the recipe that differ; all are named.
    """
    different: dict[str, None] = {}
    for name, kind in _baselines(recipe).items():
        saved = load_checkpoint(other / name / FILE)["identity"]
        different |= dict.fromkeys(differences(saved, identity(recipe, name, kind)))
    epoch = recipe.gating.branch_epoch
    if epoch is not None and not (other / "shared" / epoch_file(epoch)).is_file():
        different[f"gating.branch_epoch: {epoch} here, and no {epoch_file(epoch)} there"] = None
    if different:
        raise CheckpointError(
            f"{other}: its baselines are those of another recipe: {'; '.join(different)}. Take the baselines of a run "
            "that agrees in these, or train them."
        )


def take_baselines(recipe: Recipe, run_dir: Path, other: Path) -> None:
    """Gives a run the checkpoints of another run's baselines, where it has none itself.

    Raises:
        TrainingError: The folder cannot be written.
    """
    take_networks(_baselines(recipe), run_dir, other)


def take_networks(names: Iterable[str], run_dir: Path, other: Path) -> None:
    """Links the checkpoints of trained networks of another run, or copies them where the file system has no links.

    Args:
        names: The networks' folders inside both runs; one that the run has is left as it is.
        run_dir: The folder of the run that gets them.
        other: The folder of the run that has them.

    Raises:
        TrainingError: The folder cannot be written.
    """
    unfinished = run_dir / ".taken"
    try:
        for name in names:
            target = run_dir / name
            if target.exists():
                continue
            # Renamed when it is whole, so that a kill leaves no network without its best epoch.
            rmtree(unfinished, ignore_errors=True)
            copytree(other / name, unfinished, copy_function=_link, ignore=_all_but_checkpoints)
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished.rename(target)
    except OSError as error:
        raise TrainingError(f"cannot write {run_dir}: {error.strerror or error}; free some space") from error


def _baselines(recipe: Recipe) -> dict[str, Kind]:
    """Returns the folders of a run's baselines and their kinds."""
    return {**{f"separate/{task.name}": "single" for task in recipe.tasks}, "shared": "shared"}


def _all_but_checkpoints(folder: str, names: list[str]) -> list[str]:
    """Returns what is not taken; logs are written anew, and static networks are made by `deliver`."""
    return [name for name in names if not name.endswith(".pt")]


def _link(source: str, target: str) -> None:
    """Makes a second name for a file, or a copy where the file system has no links: checkpoints are never changed."""
    try:
        os.link(source, target)
    except OSError:
        copy2(source, target)
