"""The report of latencies: statistics, ratios paired by round, its file, and its table."""

import json
from pathlib import Path

import pytest

from gate2static.bench import LatencyReport, TargetLatency, latency_table
from gate2static.bench.environment import Environment
from gate2static.bench.report import TimingProtocol, Transfers
from gate2static.errors import BenchError
from gate2static.terminal import console

ENVIRONMENT = Environment(
    system="Linux x86_64",
    python="3.11.7",
    cpu="A CPU",
    cores=4,
    threads=2,
    gpu=None,
    gpu_compute_capability=None,
    versions={"torch": "2.14.1"},
)
PROTOCOL = TimingProtocol(batch_size=1, rounds=3, warmup_s=0.2, duration_s=3.0, min_runs=10)


def target(name: str, *rounds_ms: tuple[float, ...], backend: str = "onnxruntime", **extra: object) -> TargetLatency:
    return TargetLatency.model_validate(
        {"name": name, "backend": backend, "precision": "fp32", "rounds_ms": rounds_ms, **extra}
    )


def report(*targets: TargetLatency) -> LatencyReport:
    return LatencyReport(protocol=PROTOCOL, environment=ENVIRONMENT, targets=targets)


def rendered(latencies: LatencyReport) -> str:
    printer = console(width=100)
    with printer.capture() as capture:
        printer.print(latency_table(latencies))
    return capture.get()


def test_statistics_are_over_all_runs_of_all_rounds() -> None:
    latency = target("a", tuple(map(float, range(1, 51))), tuple(map(float, range(51, 102))))
    assert latency.runs == 101
    assert latency.median_ms == latency.mean_ms == 51
    assert [latency.percentile_ms(p) for p in (90, 95, 99)] == [91, 96, 100]


def test_reports_print_figures_and_not_the_latency_of_every_run() -> None:
    printed = repr(report(target("a", tuple(map(float, range(1, 1001))))))
    assert "runs=1000, median_ms=500.5, variation=" in printed
    assert "rounds_ms" not in printed
    assert len(printed) < 1500


def test_variation_above_trtexecs_limit_is_unstable() -> None:
    assert target("a", (98.0, 102.0)).stable
    assert target("a", (98.0, 102.0)).variation == pytest.approx(0.02)
    assert not target("a", (97.0, 103.0)).stable


def test_ratios_are_paired_by_round_so_that_a_slow_spell_cancels() -> None:
    # The machine is three times slower in round 2; the median of all runs alone would call b 5 times slower.
    first = target("a", (1.0, 1.0, 1.0), (3.0,), (1.0,))
    second = target("b", (2.0,), (6.0, 6.0, 6.0, 6.0), (2.0,))
    latencies = report(first, second)
    assert latencies.round_ratios(second) == (2.0, 2.0, 2.0)
    assert latencies.ratio(second) == 2.0
    assert latencies.ratio(first, over=second) == 0.5
    assert second.median_ms / first.median_ms == 6.0


def test_each_backend_is_compared_with_the_first_target_on_it() -> None:
    rows = [
        target(name, (ms,), backend=b) for name, b, ms in [("a", "x", 1), ("a", "y", 10), ("b", "x", 2), ("b", "y", 5)]
    ]
    assert [report(*rows).ratio(row) for row in rows] == [1, 1, 2, 0.5]


def test_targets_are_found_by_name() -> None:
    latencies = report(target("a", (1.0,)), target("b", (2.0,)))
    assert latencies["b"].median_ms == 2
    with pytest.raises(KeyError, match="c"):
        latencies["c"]


def test_a_report_survives_the_disk(tmp_path: Path) -> None:
    written = report(target("a", (1.25, 2.5)), target("b", (1 / 3,), transfers={"upload_ms": 0.1, "download_ms": 0.2}))
    written.to_json(tmp_path / "run" / "latency.json")
    assert LatencyReport.from_json(tmp_path / "run" / "latency.json") == written


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format: Input should be 1"),
        ({"targets": []}, "targets: "),
        ({"surprise": 1}, "surprise: Extra"),
    ],
)
def test_a_foreign_report_is_one_clear_line(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "latency.json"
    report(target("a", (1.0,))).to_json(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BenchError, match=rf"latency\.json is not a latency report: {message}") as caught:
        LatencyReport.from_json(path)
    assert "\n" not in str(caught.value)


def test_a_missing_or_truncated_report_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot read the latency report"):
        LatencyReport.from_json(tmp_path / "latency.json")
    (tmp_path / "latency.json").write_text('{"format": 1, "targ')
    with pytest.raises(BenchError, match="cannot be read as JSON: .* make one with `gate2static bench --json`"):
        LatencyReport.from_json(tmp_path / "latency.json")


@pytest.mark.parametrize(
    ("rounds_ms", "message"),
    [
        ([[]], r"targets\.1\.rounds_ms\.0: Tuple should have at least 1 item"),
        ([[0.0]], r"targets\.1\.rounds_ms\.0\.0: Input should be greater than 0"),
        ([[1.0]] * 3, r"targets have 1 and 3 rounds; all have the same number"),
    ],
)
def test_times_that_no_clock_gives_are_refused(rounds_ms: object, message: str, tmp_path: Path) -> None:
    """Empty rounds, zeros and rounds that do not pair up used to end in a traceback when ratios were computed."""
    path = tmp_path / "latency.json"
    report(target("a", (1.0,)), target("b", (1.0,))).to_json(path)
    content = json.loads(path.read_text())
    content["targets"][1]["rounds_ms"] = rounds_ms
    path.write_text(json.dumps(content))
    with pytest.raises(BenchError, match=f"is not a latency report: .*{message}"):
        LatencyReport.from_json(path)


def test_the_table_shows_percentiles_ratio_and_machine() -> None:
    text = rendered(report(target("separate", (10.0, 10.0)), target("gated [x]", (5.0, 5.0))))
    assert "Latency in ms, onnxruntime" in text
    assert "gated [x]" in text
    assert "5.000" in text
    assert "0.500" in text
    assert "A CPU, 2 of 4 cores; batch size 1" in text
    assert "varies" not in text


def test_the_table_warns_of_unstable_times_and_shows_copies() -> None:
    noisy = target("a", (1.0, 2.0), transfers=Transfers(upload_ms=0.25, download_ms=0.5).model_dump())
    text = rendered(report(noisy, target("b", (1.0,), backend="torch")))
    assert "varies by more than 2.5%" in text
    assert "0.750" in text
    assert "33% !" in text
    assert "backend" in text
