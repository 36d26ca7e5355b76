"""What the benchmarks write follows from what they measured, and interruptions leave nothing half done."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.evidence import dense_tasks
from benchmarks.latency_fidelity import cases, page
from benchmarks.latency_fidelity.__main__ import rows_of
from benchmarks.speed import settled_step
from gate2static.gates import gate_decisions
from gate2static.report.figures.trade_off import TradeOffPoint

Figures = list[tuple[float, float]]


def points(kind: str, figures: Figures) -> list[TradeOffPoint]:
    return [
        TradeOffPoint(name=str(10**i), kind=kind, cost=cost, delta_mtl_percent=delta)
        for i, (cost, delta) in enumerate(figures)
    ]


def test_one_network_under_both_penalties_counts_for_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"separate": [(10, 0)], "shared": [(3, -5)], "gated": [(9, -1), (8, -2)], "l1": [(9, -1), (8, -3)]}
    monkeypatch.setattr(dense_tasks, "points", lambda _: [p for kind, of in found.items() for p in points(kind, of)])
    said = "\n".join(dense_tasks.verdicts({}))
    assert "1 of 2 networks of L1" in said
    assert "0 of 2 the other way round" in said
    assert "At λ = 1 both are one network" in said


def test_copying_the_baselines_can_be_interrupted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("separate", "shared"):
        checkpoint = dense_tasks.folder(tmp_path, 0, "hinge") / name / "ckpt.pt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_text("whole")
    honest = shutil.copytree

    def killed(source: Path, to: Path, **options: Any) -> None:
        honest(source, to, **options)
        (to / "ckpt.pt").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(dense_tasks, "sweep", lambda *_, **__: None)
    monkeypatch.setattr(shutil, "copytree", killed)
    with pytest.raises(KeyboardInterrupt):
        dense_tasks._sweep(tmp_path, 0, "l1", [])
    monkeypatch.setattr(shutil, "copytree", honest)
    dense_tasks._sweep(tmp_path, 0, "l1", [])
    copied = dense_tasks.folder(tmp_path, 0, "l1")
    assert {str(p.relative_to(copied)): p.read_text() for p in copied.rglob("*.pt")} == {
        "separate/ckpt.pt": "whole",
        "shared/ckpt.pt": "whole",
    }


@pytest.mark.parametrize(
    ("ratios", "tasks", "says"),
    [
        ([0.54, 0.59], 3, "0.50; measured were 0.54 to 0.59. With T = 3 the multiplications of 1.6 of 4 streams"),
        ([0.5, 0.44], 5, "0.50; measured were 0.44 to 0.50. With T = 5 the multiplications of 2.0 of 6 streams"),
    ],
)
def test_the_goal_of_settled_gates_stands_beside_what_was_measured(
    ratios: list[float], tasks: int, says: str
) -> None:
    assert says in " ".join(settled_step._verdict(ratios, tasks).split())


def latency_row(lowering: str, latency: float, *, seed: int = 0, share: float = 0.25) -> dict[str, Any]:
    gates = {"share": share, "group_size": 16, "mixing": "softmax", "tied": False, "seed": seed}
    ours = {"network": "resnet18", "backend": "onnxruntime", "threads": 1, "lowering": lowering, "separate": 3.0}
    spent = {"convolutions and products": 3.0, "copies": 1.0}
    return {**gates, **ours, "macs": 2.0, "latency": latency, "over_separate": latency / 3, "profile_ms": spent}


def test_the_latency_page_gives_medians_over_seeds_and_keeps_what_was_written_by_hand(
    tmp_path: Path,
) -> None:
    rows = [latency_row("ours", latency, seed=seed) for seed, latency in enumerate((2.4, 2.5, 4.0))]
    path = tmp_path / "latency.md"
    path.write_text(f"# By hand\n\n{page.MARK}old tables")
    page.write_page(path, [*rows, latency_row("plain", 2.0), latency_row("ours", 3.2, share=0.75)])
    written = path.read_text()
    assert written.startswith("# By hand\n\n")
    assert "old tables" not in written
    assert "| 0.25 | 3 | 2.00× |  | 2.00× | 2.50× | 1.00 | **0.80** | 3.00× |" in written
    assert "| 0.75 | 1 | 2.00× |  |  | 3.20× (slower than separate) |  | **0.62** | 3.00× |" in written
    assert "| 0.25 | 75 % | 25 % |" in written
    assert path.with_suffix(".png").stat().st_size > 0


def test_a_pass_is_judged_by_the_lowering_that_it_was_left_out_of() -> None:
    rows = [latency_row("any", 2.0), latency_row("no share_work", 2.2)]
    rows += [
        latency_row("convolve_moves", 1.6),
        latency_row("no convolve_moves", 2.4),
        latency_row("no blocks", 2, seed=1),
    ]
    found = page._passes(rows, [r for r in rows if r["lowering"].startswith("no ")])
    assert [line.split("|")[-3:-1] for line in found.splitlines()[2:]] == [
        [" convolve_moves ", " 1.50 "],
        [" share_work ", " 1.10 "],
    ]


def test_rows_of_a_page_of_the_documentation_lie_with_the_results_and_those_of_others_beside_them() -> None:
    root = Path(__file__).parents[2]
    assert rows_of(root / "docs" / "latency.md") == root / "benchmarks" / "results" / "latency.jsonl"
    assert rows_of(root / "runs" / "latency.md") == root / "runs" / "latency.jsonl"


def test_streams_of_the_latency_benchmark_differ() -> None:
    """OpenVINO computes equal layers once: three separate networks of equal weights looked as fast as one."""
    gates = cases.Gates(share=0.25, group_size=16, mixing="softmax")
    gated = cases.gated_network("resnet18", gates)
    first, second, *_ = (list(branch.parameters()) for branch in gated.branches.values())
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True) if a.ndim > 1)
    cases.draw(gated, gates)
    decided = torch.cat([d.flatten() for d in gate_decisions(gated).values()]).double()
    assert decided.mean().item() == pytest.approx(0.25, abs=0.05)
