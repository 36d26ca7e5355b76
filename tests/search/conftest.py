"""A search whose trials take no time: what a trial would have measured is a function of its point."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gate2static.front.records import Measured, NetworkRecord, TaskMetric, TrialRecord
from gate2static.recipe import Recipe, load_recipe, recipe_at
from gate2static.search import storage, worker
from gate2static.search.trial import IsHopeless, Searching, row_name

TINY = Path("recipes/digits_tiny.yaml")
SPACE = "{sparsity_weight: {log: [1, 100]}, gating.group_size: [1, 4, layer]}"


def recipe_with(search: str) -> Recipe:
    return load_recipe(TINY, [f"search={{space: {SPACE}, {search}}}"])


def record_of(recipe: Recipe, slot: int, point: dict[str, Any], seed: int = 0) -> TrialRecord:
    weight = point["sparsity_weight"]
    gain = 0.01 * len(str(point["gating.group_size"])) - weight / 1000 + seed / 100
    separate = Measured(metrics={"left": 0.5}, delta_mtl=0.0, worst_task=0.0, macs=1000, parameters=10)
    gated = Measured(metrics={"left": gain}, delta_mtl=gain, worst_task=gain, macs=900 - int(weight), parameters=9)
    row = row_name(recipe_at(recipe, point))
    network = NetworkRecord(
        seed=seed, run=f"seed-{seed}", checkpoint=f"{row}/ckpt.pt", gated=gated, separate=separate, shared=separate
    )
    task = TaskMetric(name="left", metric="accuracy", higher_is_better=True)
    return TrialRecord(slot=slot, point=point, row=row, tasks=(task,), networks=(network,))


@pytest.fixture
def trials_without_training(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], None]:
    """Replaces training; the argument is called with every trial's slot before the trial ends."""
    monkeypatch.setattr(worker, "POLL_S", 0.05)
    monkeypatch.setattr(storage, "PAUSES_S", (0.05, 0.05))

    def replace(within: Callable[[int], None] = lambda slot: None) -> None:
        def run(
            searching: Searching, slot: int, point: dict[str, Any], is_hopeless: IsHopeless | None
        ) -> TrialRecord:
            with (searching.run_dir / "begun").open("a") as file:
                file.write(f"{slot} {os.getpid()}\n")
            within(slot)
            record = record_of(searching.recipe, slot, point)
            gain = record.networks[0].gated.delta_mtl
            for epoch in range(1, 3) if is_hopeless is not None else ():
                if is_hopeless(epoch, gain):
                    record = TrialRecord(slot=slot, point=point, row=record.row, stopped_after=epoch)
                    break
            record.save(searching.run_dir)
            return record

        monkeypatch.setattr(worker, "run_trial", run)

    return replace
