"""Kills workers of a search at random moments, again and again: `python -m benchmarks.search.chaos`.

Two workers at a time train a small search. One of them is killed after a random while, wherever it is, and another one
takes its place; a search that ends is begun anew in another folder, until so many workers have been killed. Every
search must end with the files of one that nobody disturbed, to the bit.

Workers are copies of this process, since an import of torch would take longer than what they train.
"""

import argparse
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from optuna import load_study, logging
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from benchmarks.search.__main__ import without_training
from gate2static.front.pareto import as_json, read_front
from gate2static.recipe import Recipe, load_recipe
from gate2static.search import search, trial, worker
from gate2static.search.running import JOURNAL
from gate2static.train.loop.checkpoints import load_checkpoint

SMALL = (
    "data.options={train_images: 32, val_images: 10, test_images: 10}",
    "tasks=[{name: left, kind: classification}, {name: mask, kind: mask}]",
    "training.single={epochs: 1, batch_size: 16}",
    "training.shared={epochs: 1, batch_size: 16}",
    "training.gated={epochs: 1, batch_size: 16}",
    "training.checkpoint_steps=1",
)
SPACE = "{training.shared.epochs: [1, 2], gating.group_size: [4, layer], sparsity_weight: {log: [1, 100]}}"
WORKERS = 2


def main() -> None:
    """Prints how often workers were killed, and exits with 1 where a search ended otherwise than undisturbed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--space", default=SPACE)
    parser.add_argument("--seed", type=int, default=0, help="the seed of the moments")
    parser.add_argument("--folder", type=Path, help="where the searches stay; a temporary folder by default")
    parser.add_argument("--without-training", action="store_true", help="replace networks by numbers")
    options = parser.parse_args()
    if options.without_training:
        trial._network_trained = without_training
    torch.set_num_threads(1)
    worker.POLL_S = 0.2  # trials are short here
    logging.set_verbosity(logging.ERROR)
    part = f"{{space: {options.space}, sampler: random, trials: {options.trials}, seeds: [3]}}"
    recipe = load_recipe("recipes/digits_tiny.yaml", [*SMALL, f"search={part}"])
    with tempfile.TemporaryDirectory() as temporary:
        _chaos(recipe, options.folder or Path(temporary), options.kills, random.Random(options.seed))


def _chaos(recipe: Recipe, folder: Path, kills: int, draw: random.Random) -> None:
    alone = folder / "alone"
    begin = time.monotonic()
    os.waitpid(_start(recipe, alone), 0)
    assert recipe.search is not None
    trial_s = (time.monotonic() - begin) / recipe.search.slots
    print(f"undisturbed: {recipe.search.slots} trials, {trial_s:.1f} s each", flush=True)
    killed = 0
    different = 0
    number = 0
    while killed < kills:
        shared = folder / f"disturbed-{number}"
        killed_here = _disturbed(recipe, shared, kills - killed, 2 * trial_s, draw)
        differences = _differences(recipe.search.slots, shared, alone)
        print(f"{shared.name}: {killed_here} killed, {'; '.join(differences) or 'equal to the bit'}", flush=True)
        killed += killed_here
        different += bool(differences)
        number += 1
    print(f"{killed} workers killed in {number} search{'es' * (number > 1)}, {different} of which ended otherwise")
    raise SystemExit(int(different > 0))


def _disturbed(recipe: Recipe, folder: Path, kills: int, longest_s: float, draw: random.Random) -> int:
    """Runs a search to its end while its workers are killed; returns how many were."""
    workers = [_start(recipe, folder) for _ in range(WORKERS)]
    killed = 0
    while killed < kills:
        time.sleep(draw.uniform(0, longest_s))
        place = draw.randrange(WORKERS)
        if os.waitpid(workers[place], os.WNOHANG)[0]:
            del workers[place]
            break  # this worker saw the end of the search
        os.kill(workers[place], signal.SIGKILL)
        os.waitpid(workers[place], 0)
        killed += 1
        workers[place] = _start(recipe, folder)
    for process in workers:
        os.waitpid(process, 0)
    return killed


def _start(recipe: Recipe, folder: Path) -> int:
    """Starts a worker; returns its process."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            search(recipe, folder, say=lambda line: None, progress=False)
            status = 0
        finally:
            os._exit(status)
    return process


def _differences(count: int, shared: Path, alone: Path) -> list[str]:
    """Returns in words what a disturbed search has otherwise than an undisturbed one."""
    found = []
    storage = JournalStorage(JournalFileBackend(str(shared / JOURNAL)))
    states = Counter(trial.state for trial in load_study(study_name=None, storage=storage).trials)
    if states[TrialState.COMPLETE] != count or set(states) - {TrialState.COMPLETE, TrialState.FAIL}:
        found.append(f"trials ended as {dict(states)}")
    if _front(shared) != _front(alone):
        found.append("another front")
    patterns = ("trials/*.json", "seed-*/run.json", "seed-*/**/ckpt.pt")
    files = {file.relative_to(shared) for pattern in patterns for file in shared.glob(pattern)}
    expected = {file.relative_to(alone) for pattern in patterns for file in alone.glob(pattern)}
    found += [f"{file} is in one of them only" for file in sorted(files ^ expected)]
    found += [f"{file} differs" for file in sorted(files & expected) if not _equal(shared / file, alone / file)]
    return found


def _front(folder: Path) -> str:
    return json.dumps(as_json(read_front([folder]))).replace(str(folder), "")


def _equal(ours: Path, theirs: Path) -> bool:
    if ours.suffix == ".pt":
        weights, expected = (load_checkpoint(path)["model"] for path in (ours, theirs))
        return weights.keys() == expected.keys() and all(torch.equal(weights[key], expected[key]) for key in expected)
    if ours.name == "run.json":  # whose rows are in the order in which they were trained
        rows, expected = ({row["name"]: row for row in json.loads(path.read_text())["rows"]} for path in (ours, theirs))
        return bool(rows == expected)
    return ours.read_bytes() == theirs.read_bytes()


if __name__ == "__main__":
    main()
