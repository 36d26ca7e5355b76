"""Training to a budget: what is saved fits, and going on is exact."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from gate2static.bench import Stopwatch
from gate2static.errors import BudgetError, RecipeError
from gate2static.gates import gate_parameters
from gate2static.prune import prune
from gate2static.recipe import Budget, Recipe
from gate2static.static import load_static
from gate2static.train import RunResult, load_gated, project_checkpoint, runs, sweep, train
from gate2static.train.loop.checkpoints import load_checkpoint
from gate2static.train.loop.log_columns import budget_columns, note
from gate2static.train.loop.progress import TrainingProgress

pytestmark = pytest.mark.slow

Run = tuple[Path, RunResult]
NAME = "gated-macs-0.7"


@pytest.fixture(scope="session")
def limited(small: Recipe) -> Recipe:
    # A weight so small that the gates stay open: the projection has to do all the work.
    return small.model_copy(update={"budget": Budget(macs=0.7), "sparsity_weight": 1e-3})


def with_baselines(whole_run: Run, folder: Path) -> Path:
    for part in ("separate", "shared"):
        shutil.copytree(whole_run[0] / part, folder / part)
    return folder


@pytest.fixture(scope="session")
def limited_run(limited: Recipe, whole_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = with_baselines(whole_run, tmp_path_factory.mktemp("limited"))
    return folder, train(limited, folder, resume=True, progress=False)


def test_what_is_saved_fits_the_budget(limited_run: Run) -> None:
    folder, result = limited_run
    separate, row = result.rows[0], result.rows[-1]
    assert row.name == NAME
    gated, _ = load_gated(folder / row.checkpoints[0])
    assert prune(gated).manifest.macs.static == row.macs == row.budget.after["network"]
    assert 0.98 * 0.7 * separate.macs <= row.macs <= 0.7 * separate.macs
    assert row.budget.before["network"] > row.budget.limits["network"]
    assert sum(row.budget.flips.values()) > 0


def test_lambda_cost_and_budget_are_logged(limited_run: Run) -> None:
    folder, result = limited_run
    row = result.rows[-1]
    with (folder / NAME / "log.csv").open() as file:
        log = list(csv.DictReader(file))
    assert [float(line["budget"]) for line in log] == [row.budget.limits["network"]] * 2
    assert float(log[-1]["cost"]) == float(log[-1]["macs"]) == row.macs
    assert float(log[0]["cost"]) > row.macs
    assert float(log[-1]["lambda"]) == row.sparsity_weight > 1e-3


@pytest.mark.parametrize("steps", [2, 5])
def test_going_on_after_an_interruption_equals_never_stopping(
    limited: Recipe,
    limited_run: Run,
    whole_run: Run,
    tmp_path: Path,
    steps: int,
    assert_same: Callable[[Any, Any], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = with_baselines(whole_run, tmp_path / "cut")
    left = steps

    def stop(self: TrainingProgress, *, cost: float) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "advance", stop)
        with pytest.raises(KeyboardInterrupt):
            train(limited, folder, resume=True, progress=False)
    assert train(limited, folder, resume=True, progress=False) == limited_run[1]
    found, whole = (load_checkpoint(run / NAME / "ckpt.pt") for run in (folder, limited_run[0]))
    assert_same(found, whole)
    assert (folder / NAME / "log.csv").read_bytes() == (limited_run[0] / NAME / "log.csv").read_bytes()


def test_a_static_network_names_the_budget_that_it_was_trained_to(
    limited_run: Run, tmp_path: Path, run: Callable[..., Any]
) -> None:
    (row,) = (row for row in limited_run[1].rows if row.budget)
    checkpoint = limited_run[0] / row.checkpoints[0]
    run("prune", checkpoint, "-o", tmp_path / "held")
    named = load_static(tmp_path / "held").manifest.budget
    assert named == row.budget.model_dump(mode="json")
    said = run("prune", checkpoint, "-o", tmp_path / "aligned", "--target", "trt")
    assert "change that cost, it is not promised here" in " ".join(said.stdout.split())
    assert load_static(tmp_path / "aligned").manifest.budget is None


def test_an_unreachable_budget_is_refused_before_anything_is_written(small: Recipe, tmp_path: Path) -> None:
    tight = small.model_copy(update={"budget": Budget(macs=0.1)})
    with pytest.raises(BudgetError, match=r"the budget is 0\.1, .*: 0\.\d+ with all gates shared; .* it is 1\."):
        train(tight, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_budget_is_checked_with_the_gates_of_the_recipe(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hard gates mix nothing, and a latency table of theirs knows no multiplications."""
    gating = small.gating.model_copy(update={"group_size": 4, "mixing": "hard", "tie_residual": True})
    check = MagicMock(side_effect=BudgetError("too little"))
    monkeypatch.setattr(runs, "check_budget", check)
    with pytest.raises(BudgetError, match="too little"):
        train(small.model_copy(update={"budget": Budget(macs=0.5), "gating": gating}), tmp_path / "run", progress=False)
    gated = check.call_args.args[0]
    assert all(g.group_size == min(4, g.channels) and g.hard for g in gated.gates.values())
    assert len(gate_parameters(gated)) < 2 * len(gated.gates)


def test_there_is_nothing_to_sweep_with_a_budget(limited: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="a budget steers λ_s, so there is nothing to sweep; use `train`"):
        sweep(limited, tmp_path / "run", progress=False)


def test_prune_projects_a_finished_checkpoint_and_verify_agrees(
    run: Callable[..., Any], whole_run: Run, tmp_path: Path
) -> None:
    separate, _, gated = whole_run[1].rows
    share = 0.5 * (gated.macs + whole_run[1].rows[1].macs) / separate.macs
    said = run("prune", whole_run[0] / gated.checkpoints[0], "-o", tmp_path / "static", "--budget", f"macs={share}")
    assert "gates flipped\n" in said.stdout
    assert "static.ckpt.pt; verify the static network with it" in " ".join(said.stdout.split())
    run("verify", tmp_path / "static.ckpt.pt", tmp_path / "static")
    macs = prune(load_gated(tmp_path / "static.ckpt.pt")[0]).manifest.macs
    assert macs.static <= share * macs.separate
    assert load_checkpoint(tmp_path / "static.ckpt.pt")["position"]["budget"]["report"]["flips"]


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ("gated-60/ckpt.pt", ["--budget", "macs=0.1"], "below what can be reached"),
        ("gated-60/ckpt.pt", ["--budget", "speed=1"], "--budget: unknown key speed"),
        ("shared/ckpt.pt", ["--budget", "macs=0.5"], "holds a shared network, which has no gates"),
        ("gated-60/ckpt.pt", ["--budget", "macs=0.5", "--align", "8"], "leave out one"),
        (
            "gated-60/ckpt.pt",
            ["--budget", "latency=0.5", "--budget", "device=a100", "--target", "openvino"],
            "a latency is predicted for --target any; leave out --target, or have it timed on this machine",
        ),
        (
            "gated-60/ckpt.pt",
            ["--budget", "latency=0.5", "--budget", "device=a100", "--dtype", "float16"],
            "a latency is that of the network as trained; leave out --dtype",
        ),
        ("gated-60/ckpt.pt", ["--budget", "macs=0.5", "--threads", "1"], "--threads is for a latency that is timed"),
    ],
)
def test_pruning_to_a_wrong_budget_writes_nothing(
    run: Callable[..., Any], whole_run: Run, tmp_path: Path, row: str, options: list[str], message: str
) -> None:
    result = run("prune", whole_run[0] / row, "-o", tmp_path / "static", *options, code=2)
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_projecting_never_replaces_the_checkpoint_that_it_reads(
    run: Callable[..., Any], whole_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "s.ckpt.pt"
    shutil.copy(whole_run[0] / "gated-60" / "ckpt.pt", source)
    before = source.read_bytes()
    monkeypatch.chdir(tmp_path)
    result = run("prune", source, "-o", "s", "--budget", "macs=0.9", code=2)
    assert "would replace" in result.stderr
    assert source.read_bytes() == before
    assert list(tmp_path.iterdir()) == [source]


def test_a_file_that_belongs_to_no_static_network_is_never_replaced(
    run: Callable[..., Any], whole_run: Run, tmp_path: Path
) -> None:
    other = tmp_path / "s.ckpt.pt"
    other.write_text("somebody's")
    result = run("prune", whole_run[0] / "gated-60" / "ckpt.pt", "-o", tmp_path / "s", "--budget", "macs=0.9", code=2)
    assert "would replace" in result.stderr
    assert [(path, path.read_text()) for path in tmp_path.iterdir()] == [(other, "somebody's")]
    (tmp_path / "s").mkdir()
    run("prune", whole_run[0] / "gated-60" / "ckpt.pt", "-o", tmp_path / "s", "--budget", "macs=0.9", code=2)
    assert other.read_text() == "somebody's"


def test_where_the_static_network_cannot_be_written_neither_is_the_projected_checkpoint(
    run: Callable[..., Any], whole_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = tmp_path / "run"
    taken.mkdir()
    (taken / "run.json").write_text("{}")
    checkpoint = whole_run[0] / "gated-60" / "ckpt.pt"
    run("prune", checkpoint, "-o", taken, "--budget", "macs=1", code=2)
    monkeypatch.chdir(taken)
    run("prune", checkpoint, "-o", ".", "--budget", "macs=1", code=2)
    assert list(tmp_path.iterdir()) == [taken]


def test_a_logged_latency_says_whether_it_is_estimated() -> None:
    controller = MagicMock(weights={"left": 2.0}, limits={"network": 8.0}, unit="estimated ms")
    row = budget_columns(controller, MagicMock(), {"after": {"network": 7.0}})
    assert row == {"lambda": 2.0, "cost (estimated ms)": 7.0, "budget (estimated ms)": 8.0}
    assert note({"epoch": 3, **row}) == "epoch 3: λ 2 cost (estimated ms) 0.88"


def test_prune_times_networks_here_where_the_device_is_a_backend(
    run: Callable[..., Any], whole_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for option, value in {"rounds": 1, "duration_s": 0.1}.items():
        monkeypatch.setitem(Stopwatch.__init__.__kwdefaults__, option, value)
    gated = whole_run[1].rows[2]
    device = ["--budget", "latency_ms=1000", "--budget", "device=onnxruntime", "--target", "openvino", "--threads", "1"]
    project = MagicMock(wraps=project_checkpoint)
    monkeypatch.setattr("gate2static.pipeline.project_checkpoint", project)
    said = run("prune", whole_run[0] / gated.checkpoints[0], "-o", tmp_path / "static", *device)
    assert "of 1000 measured ms" in said.stdout
    assert "not promised" not in said.stdout
    assert project.call_args.kwargs["target"] == "openvino"
    assert project.call_args.kwargs["measure"]._threads == 1
    again = run("prune", tmp_path / "static.ckpt.pt", "-o", tmp_path / "again")
    assert "not promised" in again.stdout  # it was timed as laid out for another target
    assert load_static(tmp_path / "static").manifest.budget["unit"] == "measured ms"
