"""Safe networks in whole runs: what changes from round to round, what it costs, and what a kill leaves behind."""

import copy
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gate2static import files
from gate2static.data import Splits, describe_data, load_data
from gate2static.errors import BudgetError, CheckpointError, RecipeError
from gate2static.gates import gate_decisions
from gate2static.recipe import Recipe, load_recipe
from gate2static.tasks import KINDS, PairedTest, Task, build_tasks
from gate2static.train import RunResult, load_gated, runs, sweep, train
from gate2static.train.loop.checkpoints import load_checkpoint
from gate2static.train.loop.progress import TrainingProgress
from gate2static.train.processes.devices import start_fabric
from gate2static.train.safety import rounds
from gate2static.train.safety.comparison import Comparison, Tests
from gate2static.train.safety.rounds import SafeRun, make_safe, read_safety

pytestmark = pytest.mark.slow

SMALL = (
    "data.options={train_images: 16, val_images: 10, test_images: 10}",
    "training.single={epochs: 1, batch_size: 16}",
    "training.shared={epochs: 1, batch_size: 16}",
    "training.gated={epochs: 1, batch_size: 16}",
    "gating={mixing: hard, group_size: 4, gate_init_std: 1.0}",
)
# What the checks find one after the other, since so little training shows nothing.
PLAN = (("left", "mask"), (), ())
LONGER_PLAN = (("right",), ("mask",), ())


def recipe(*overrides: str) -> Recipe:
    return load_recipe(Path("recipes/digits_tiny.yaml"), (*SMALL, *overrides))


def planned(plan: tuple[tuple[str, ...], ...]) -> Callable[..., Tests]:
    """Returns a substitute for the tests, by which tasks pass that the plan does not name."""

    def tests(self: Comparison, states: Any, *, margin: float = 0.0) -> Tests:
        numbers = self.__dict__.setdefault("checks", iter(plan))
        worse = next(numbers)
        return {
            task: {metric: PairedTest(gain=-0.1 - 0.1 * (task == "mask"), p_value=0.9 * (task in worse))}
            for task, metric in (("left", "accuracy"), ("right", "accuracy"), ("mask", "IoU"))
        }

    return tests


def _remembered(build: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that builds every network once, and then copies it."""
    built: dict[str, Any] = {}

    def again(argument: Recipe | Path) -> Any:
        # All runs here are copies of one, so a network is known by its folder.
        key = str(argument.tasks) if isinstance(argument, Recipe) else argument.parent.name
        if key not in built:
            built[key] = build(argument)
        return copy.deepcopy(built[key])

    return again


@pytest.fixture(scope="module", autouse=True)
def traced_once() -> Iterator[None]:
    """Tracing takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("load_gated", "build_untrained"):
            patch.setattr(rounds, name, _remembered(getattr(rounds, name)))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, RunResult]]:
    """A run whose budget allows one change of two; read it, never write to it."""
    folder = tmp_path_factory.mktemp("safe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Comparison, "tests", planned(PLAN))
        yield folder, train(recipe("safe={epochs: 1, budget: {macs: 0.9}}"), folder, progress=False)


def test_the_row_says_who_took_an_encoder_when_and_what_that_cost(run: tuple[Path, RunResult]) -> None:
    folder, result = run
    separate, _, gated, safe = result.rows
    assert (safe.name, safe.kind, safe.checkpoints) == ("gated-60-safe", "gated", ("gated-60-safe/ckpt.pt",))
    assert safe.safety is not None
    assert safe.safety == read_safety(folder / "gated-60-safe" / "ckpt.pt")
    assert [(one.worse, one.opened) for one in safe.safety.rounds] == [
        # The worst alone; the other task is better without it.
        (("mask", "left"), "mask"),
        ((), None),
    ]
    assert safe.safety.stopped == "safe"
    assert (safe.safety.opened, safe.safety.unsafe) == (("mask",), ())
    assert (safe.safety.macs_before, safe.safety.macs_after) == (gated.macs, safe.macs)
    assert gated.macs < safe.macs <= 0.9 * separate.macs
    assert set(safe.tests) == {"left", "right"}
    assert gated.safety is None
    assert set(gated.tests) == {"left", "right", "mask"}


def test_opened_tasks_are_their_single_task_networks_and_score_the_same(run: tuple[Path, RunResult]) -> None:
    folder, result = run
    separate, _, _, safe = result.rows
    gated, _ = load_gated(folder / safe.checkpoints[0])
    assert safe.scores["mask"] == separate.scores["mask"]
    state = load_checkpoint(folder / "separate" / "mask" / "ckpt.pt")["model"]
    for key, value in gated.heads["mask"].state_dict().items():
        assert torch.equal(value, state[f"heads.mask.{key}"])
    for key, value in gated.branches["mask"].state_dict().items():
        assert torch.equal(value, state[f"backbone.{key}"])
    row = gated.tasks.index("mask")
    assert all(decision[row].all() for decision in gate_decisions(gated).values())


def test_the_other_tasks_train_on_with_their_gates_as_they_were(run: tuple[Path, RunResult]) -> None:
    folder, _ = run
    before, _ = load_gated(folder / "gated-60" / "ckpt.pt")
    after, _ = load_gated(folder / "gated-60-safe" / "ckpt.pt")
    row = before.tasks.index("left")
    decisions = gate_decisions(after)
    assert all(torch.equal(decision[row], decisions[unit][row]) for unit, decision in gate_decisions(before).items())
    pairs = zip(before.branches["left"].parameters(), after.branches["left"].parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    path = folder / "gated-60-safe" / "round-1" / "ckpt.pt"
    assert [task["name"] for task in load_checkpoint(path)["recipe"]["tasks"]] == ["left", "right"]
    assert load_gated(path)[0].tasks == ("left", "right")


def safe_run(folder: Path, *overrides: str) -> tuple[SafeRun, Callable[[], None]]:
    """Returns the safe network of a run's folder, and what makes it."""
    one = recipe(*(overrides or ("safe={epochs: 1, budget: {macs: 0.9}}",)))
    tasks = build_tasks(one.tasks, describe_data(one.data))
    made = SafeRun(name="gated-60-safe", before="gated-60", recipe=one, tasks=tasks, run_dir=folder)
    splits = load_data(one.data, [task.name for task in tasks])
    fabric = start_fabric(one)
    fabric.launch()

    def make() -> None:
        with TrainingProgress(enabled=False, total_cost=1) as progress:
            make_safe(made, splits, fabric=fabric, go_on=True, progress=progress)

    return made, make


def test_killed_between_any_two_writes_it_goes_on_bit_for_bit(
    run: tuple[Path, RunResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_same: Callable[[Any, Any], None],
) -> None:
    shutil.copytree(run[0], tmp_path, dirs_exist_ok=True)
    made, make = safe_run(tmp_path, "safe={epochs: 1}")
    folder = made.checkpoint.parent
    # What is decided is planned, so nothing needs to be pruned and measured.
    monkeypatch.setattr(rounds, "prune", lambda gated: SimpleNamespace(manifest=SimpleNamespace(macs={"static": 1})))
    measured = defaultdict(lambda: SimpleNamespace(blocks={0: {}, 1: {}}))
    monkeypatch.setattr(Comparison, "measure", lambda self, network: ({}, measured))
    write = files._write
    left = 0

    def killed(descriptor: int, content: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        write(descriptor, content)

    def written() -> dict[str, Any]:
        read = {str(p.relative_to(folder)): load_checkpoint(p) for p in sorted(folder.rglob("*.pt"))}
        return read | {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("log.csv"))}

    monkeypatch.setattr(files, "_write", killed)
    kills = []
    # Two rounds write a best and a last checkpoint and a log each, and the safe network is the seventh write.
    for write_number in (0, 1, 2, 3, 4, 6, 7):
        shutil.rmtree(folder)
        monkeypatch.setattr(Comparison, "tests", planned(LONGER_PLAN))
        left = write_number
        try:
            make()
        except KeyboardInterrupt:
            kills.append(write_number)
            monkeypatch.setattr(Comparison, "tests", planned(LONGER_PLAN))
            make()
        if write_number == 0:
            expected = written()
        assert_same(written(), expected)
    assert kills == [1, 2, 3, 4, 6, 7]
    assert sorted(expected) == sorted(
        ["ckpt.pt", *(f"round-{n}/{name}" for n in (1, 2) for name in ("ckpt-best.pt", "ckpt.pt", "log.csv"))]
    )


def test_a_safe_network_of_another_margin_is_not_taken_for_this_one(
    run: tuple[Path, RunResult], tmp_path: Path
) -> None:
    shutil.copytree(run[0], tmp_path, dirs_exist_ok=True)
    _, make = safe_run(tmp_path, "safe={epochs: 1, margin: 0.1, budget: {macs: 0.9}}")
    with pytest.raises(CheckpointError, match=r"another safe: margin: 0\.0 there, 0\.1 here; resume with the recipe"):
        make()


@pytest.mark.parametrize(
    ("wanted", "stopped"),
    [("safe={epochs: 1, budget: {macs: 0.9}}", "budget"), ("safe={epochs: 1, rounds: 1}", "rounds")],
)
def test_what_the_budget_or_the_rounds_do_not_allow_is_said(
    run: tuple[Path, RunResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    stopped: str,
) -> None:
    shutil.copytree(run[0], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "gated-60-safe")
    monkeypatch.setattr(Comparison, "tests", planned(LONGER_PLAN))
    made, make = safe_run(tmp_path, wanted)
    make()
    safety = read_safety(made.checkpoint)
    assert (safety.stopped, safety.opened, safety.unsafe) == (stopped, ("right",), ("mask",))


def test_a_network_that_is_safe_already_stays_as_it_is(
    run: tuple[Path, RunResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_same: Callable[[Any, Any], None],
) -> None:
    shutil.copytree(run[0], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "gated-60-safe")
    monkeypatch.setattr(Comparison, "tests", planned(((),)))
    made, make = safe_run(tmp_path)
    make()
    assert read_safety(made.checkpoint).stopped == "safe"
    models = [load_checkpoint(tmp_path / name / "ckpt.pt")["model"] for name in ("gated-60", "gated-60-safe")]
    assert_same(models[0], models[1])


def test_what_cannot_be_made_safe_is_said_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_validation(*arguments: Any) -> Splits:
        splits = load_data(*arguments)
        return replace(splits, val=splits.test)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "load_data", without_validation)
        with pytest.raises(
            RecipeError, match="safe: the data set comes without validation images.*data.options.val_im"
        ):
            train(recipe("safe=true"), tmp_path, progress=False)
    with pytest.raises(RecipeError, match="and none is trained; give a value in sweep"):
        sweep(recipe("safe=true", "sweep=[]", "sweep_balancing=[dwa]"), tmp_path, progress=False)
    with pytest.raises(BudgetError, match="below what can be reached"):
        train(recipe("safe={budget: {macs: 0.01}}"), tmp_path, progress=False)
    assert not any(tmp_path.rglob("ckpt.pt"))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("safe=true", ("c", "b")),
        ("safe={metrics: all}", ("c", "b", "d")),
        ("safe={margin: 0.03}", ("b",)),
        ("safe={significance: 0.3}", ("c",)),
    ],
)
def test_the_main_metric_is_shown_and_the_others_do_not_lose(wanted: str, expected: tuple[str, ...]) -> None:
    def task(name: str) -> Task:
        return Task(name=name, kind=KINDS["semantic"], channels=2)

    def tests_of(main: tuple[float, float], other: tuple[float, float]) -> dict[str, PairedTest]:
        pairs = zip(("mIoU", "pixel_accuracy"), (main, other), strict=True)
        return {name: PairedTest(gain=gain, p_value=p_value) for name, (gain, p_value) in pairs}

    tests = {
        "a": tests_of((0.02, 0.01), (0.01, 0.04)),
        "b": tests_of((0.01, 0.2), (0.01, 0.04)),
        "c": tests_of((0.02, 0.01), (-0.02, 0.7)),
        "d": tests_of((0.02, 0.01), (0.01, 0.4)),
    }
    run = SafeRun(name="x", before="y", recipe=recipe(wanted), tasks=tuple(map(task, tests)), run_dir=Path())
    assert rounds.not_shown(run, tests) == expected


def test_too_few_validation_images_show_nothing(run: tuple[Path, RunResult], tmp_path: Path) -> None:
    shutil.copytree(run[0], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "gated-60-safe")
    made, _ = safe_run(tmp_path)
    one = made.recipe
    splits = load_data(one.data, [task.name for task in made.tasks])
    few = replace(splits, val=torch.utils.data.Subset(splits.val, [0]))
    fabric = start_fabric(one)
    with (
        TrainingProgress(enabled=False, total_cost=1) as progress,
        pytest.raises(RecipeError, match="fewer than two images that count for left"),
    ):
        make_safe(made, few, fabric=fabric, go_on=True, progress=progress)
