"""A run folder read for its report: rows, latencies, gate patterns, and what is missing."""

import numpy as np
import pytest
import torch
from torch import nn

from gate2static.bench import LatencyReport, TargetLatency
from gate2static.bench.environment import describe_environment
from gate2static.bench.report import TimingProtocol
from gate2static.budget import BudgetReport
from gate2static.errors import BenchError, CheckpointError
from gate2static.gates import gate, set_gates
from gate2static.prune import prune
from gate2static.recipe import Budget
from gate2static.report import write_report
from gate2static.report.run_folder import read_content
from gate2static.train import ResultRow, RunResult, TaskInfo, load_result

ROWS = ("gated-0.1", "separate", "gated-0.02", "shared")


@pytest.fixture
def run_dir(tmp_path):
    rows = tuple(
        ResultRow(
            name=name,
            kind=name.partition("-")[0],
            sparsity_weight=float(name.partition("-")[2]) if "-" in name else None,
            seed=0,
            checkpoints=(f"{name}/ckpt.pt",),
            metrics={"a": 0.5, "b": 0.25},
            delta_mtl=0.015,
            macs=1_000_000,
            parameters=2_000,
        )
        for name in ROWS
    )
    tasks = tuple(TaskInfo(name=name, metric="IoU", higher_is_better=True) for name in ("a", "b"))
    RunResult(recipe={"name": "toy"}, tasks=tasks, rows=rows).save(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def gated():
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)]
    heads = {"a": nn.Conv2d(4, 1, 1), "b": nn.Conv2d(4, 1, 1)}
    example = torch.randn(2, 3, 12, 12)
    return gate(nn.Sequential(*layers), tasks=["a", "b"], example_inputs=(example,), heads=heads).eval()


def latency(medians_ms):
    """Rounds in which the machine gets slower and slower."""
    return LatencyReport(
        protocol=TimingProtocol(batch_size=1, rounds=3, warmup_s=0, duration_s=1, min_runs=1),
        environment=describe_environment(threads=1),
        targets=tuple(
            TargetLatency(
                name=name, backend="onnxruntime", precision="fp32", rounds_ms=tuple((ms * slow,) for slow in (1, 2, 3))
            )
            for name, ms in medians_ms.items()
        ),
    )


def test_a_run_that_is_only_trained_shows_its_metrics_and_says_what_to_run(run_dir):
    content = read_content(run_dir)
    assert [row.name for row in content.rows] == ["separate", "shared", "gated-0.02", "gated-0.1"]
    assert content.rows[0].delta_mtl_percent == pytest.approx(1.5)
    said = "\n".join(content.missing)
    assert f"gate2static prune {run_dir}/gated-0.1/ckpt.pt -o {run_dir}/gated-0.1/static" in said
    assert f"gate2static prune {run_dir}/separate -o" in said
    assert "No latency is measured yet" in said
    written = write_report(run_dir)
    assert "No latency is measured yet" in written.html.read_text()
    assert [path.name for path in written.pictures] == ["tradeoff-macs.png"]


def test_ratios_pair_neighbouring_rounds(run_dir):
    medians = {"shared/static": 1.0, "separate/static": 3.0, "gated-0.1/static": 1.5}
    latency(medians).to_json(run_dir / "latency.json")
    content = read_content(run_dir)
    rows = {row.name: row for row in content.rows}
    assert rows["gated-0.1"].latency_ms == pytest.approx(3.0), "the middle round's"
    assert rows["gated-0.1"].latency_ratios["shared"] == pytest.approx(1.5)
    assert rows["gated-0.1"].latency_ratios["separate"] == pytest.approx(0.5)
    assert rows["gated-0.02"].latency_ms is None
    assert "gated-0.02 has no latency in latency.json" in content.missing


def test_gate_pattern_is_the_share_of_channels_per_unit_and_task(run_dir, gated):
    units = list(gated.gates)
    decisions = {unit: torch.tensor([[True, False, False, False], [True, True, False, False]]) for unit in units}
    set_gates(gated, decisions)
    prune(gated).save(run_dir / "gated-0.1" / "static")
    content = read_content(run_dir)
    pattern = next(row.pattern for row in content.rows if row.name == "gated-0.1")
    assert pattern.units == tuple(units)
    np.testing.assert_allclose(pattern.specific_share, [[0.25, 0.5]] * 3)
    np.testing.assert_allclose(pattern.contribution[:2].sum(1), 1)
    assert any("gated-0.1 is not verified yet" in sentence for sentence in content.missing)


def test_no_contribution_is_shown_after_the_last_unit_that_takes_anything_shared(run_dir, gated):
    units = list(gated.gates)
    decisions = {unit: torch.ones(2, 4, dtype=torch.bool) for unit in units}
    decisions[units[1]][0, 0] = False
    set_gates(gated, decisions)
    prune(gated).save(run_dir / "gated-0.1" / "static")
    pattern = next(row.pattern for row in read_content(run_dir).rows if row.name == "gated-0.1")
    assert np.isnan(pattern.contribution).all(axis=1).tolist() == [False, True, True]


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"run\.json: no such file"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_latency_file_that_is_not_ours_is_an_error(run_dir):
    (run_dir / "latency.json").write_text("{}")
    with pytest.raises(BenchError, match="is not a latency report"):
        read_content(run_dir)


def test_a_budget_from_a_data_sheet_is_labelled_as_estimated(run_dir):
    result = load_result(run_dir)
    spent = BudgetReport(
        budget=Budget(latency_ms=8, device="a100"),
        unit="estimated ms",
        limits={"network": 8.0},
        before={"network": 9.0},
        after={"network": 6.0},
        flips={},
    )
    result.with_row(result.rows[0].model_copy(update={"budget": spent})).save(run_dir)
    (row,) = (row for row in read_content(run_dir).rows if row.budget)
    assert row.budget == "0.750 of 8 estimated ms, λ 0.1"


def test_a_gain_that_is_not_defined_is_a_dash_with_a_reason(run_dir):
    """A single-task metric of 0 ended the training after the single-task networks, and every resume of it."""
    result = load_result(run_dir)
    rows = tuple(row.model_copy(update={"delta_mtl": None}) for row in result.rows)
    result.model_copy(update={"rows": rows}).save(run_dir)
    content = read_content(run_dir)
    assert content.rows[0].delta_mtl_percent is None
    assert "Δ_MTL is not defined" in "\n".join(content.missing)
    assert "Δ_MTL is not defined" in write_report(run_dir).html.read_text()


def _conflict(run_dir, row, text):
    (run_dir / row).mkdir(exist_ok=True)
    (run_dir / row / "conflict.csv").write_text(text)


def test_measured_conflict_becomes_a_picture(run_dir):
    assert not any(path.stem == "conflict" for path in write_report(run_dir).pictures)
    for row in ("shared", "gated-0.1"):
        _conflict(run_dir, row, "step,weight/a,gds,gms,fd\n0,1.0,0.5,0.75,0.25\n10,1.0,0.25,0.5,0.5\n")
    written = write_report(run_dir)
    assert run_dir / "conflict.png" in written.pictures
    assert [one.name for one in written.content.conflicts] == ["gated-0.1", "shared"]
    assert "How the tasks conflict" in written.html.read_text()


@pytest.mark.parametrize("text", ["", "gds\n1\n", "step,gds\n0,high\n", "step,gds\n0\n", "step,gds\n0,nan\n", "\0"])
def test_a_log_of_conflict_that_is_none_is_named(run_dir, text):
    _conflict(run_dir, "shared", text)
    with pytest.raises(CheckpointError, match=r"shared/conflict\.csv: (no log of conflict|a number is not finite)"):
        write_report(run_dir)
