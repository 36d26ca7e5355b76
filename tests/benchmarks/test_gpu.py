"""The benchmark for GPUs, on tiny networks and the CPU: each part can fail alone, and the page has all that is left."""

import json
from pathlib import Path

import pytest

from benchmarks import gpu


@pytest.mark.slow
def test_the_whole_script_runs_without_a_gpu(tmp_path: Path) -> None:
    gpu.main(["--device", "cpu", "--quick", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [row["kind"] for row in rows] == ["latency"] * 6 + ["training"] * 3
    assert {row["backend"] for row in rows[:6]} == {"torch", "onnxruntime"}
    page = (tmp_path / "gpu.md").read_text()
    assert "| tiny | gated | onnxruntime | fp32 |" in page
    assert "| plain multi-task learning |" in page


def test_what_fails_is_a_row_that_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = gpu.g2s.benchmark

    def broken(targets, *, backends, **options):
        if backends == ["torch"]:
            raise RuntimeError("no\nkernel")
        return benchmark(targets, backends=backends, **options)

    monkeypatch.setattr(gpu.g2s, "benchmark", broken)
    rows = list(gpu.latencies("tiny", "cpu", quick=True))
    assert rows[0] == {"kind": "failure", "what": "tiny on torch", "reason": "no kernel"}
    assert [row["backend"] for row in rows[1:]] == ["onnxruntime"] * 3
    page = gpu.page({"environment": {"gpu": "H1", "versions": {}}, "rows": rows})
    assert "| tiny on torch | no kernel |" in page


def test_a_part_that_takes_too_long_or_dies_keeps_its_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "python"
    monkeypatch.setattr(gpu.sys, "executable", str(script))
    row = '{"kind": "training", "what": "x"}'

    def part(ending: str) -> list[dict[str, str]]:
        script.write_text(f"#!/bin/sh\necho noise; echo '{row}'; printf '{{\"kind\": '; {ending}\n")
        script.chmod(0o755)
        return gpu.measured("training", 2, [])

    measured, stopped = part("exec sleep 60")
    assert measured == json.loads(row)
    assert stopped["reason"].startswith("stopped after its limit of 2 s")
    assert part("echo dead >&2; exit 3")[1]["reason"] == "ended with 3: dead"


def test_the_page_of_the_repository_is_for_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--device", "cpu", "--quick"])
    assert "docs/gpu.md is for a whole measurement on a GPU" in capsys.readouterr().err
