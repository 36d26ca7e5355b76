"""`doctor`: every backend is looked at, and what is missing comes with advice."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gate2static.bench import diagnose, doctor, findings_table
from gate2static.errors import MissingDependencyError
from gate2static.terminal import console


def by_item() -> dict[str, Any]:
    return {finding.item: finding for finding in diagnose()}


def test_every_backend_is_looked_at_and_what_is_missing_comes_with_advice() -> None:
    findings = by_item()
    assert {
        "CPU",
        "torch",
        "GPU",
        "ONNX Runtime on the CPU",
        "ONNX Runtime on CUDA",
        "TensorRT",
        "TensorRT-RTX",
    } <= set(findings)
    assert all(bool(finding.advice) == (finding.state == "missing") for finding in findings.values())
    assert findings["torch"].found.startswith(torch.__version__)
    assert findings["ONNX Runtime on the CPU"].state == "ok"


def test_a_gpu_is_named_with_its_compute_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    gpu = by_item()["GPU"]
    assert (gpu.found, gpu.state) == ("A GPU, compute capability 8.9", "ok")


def test_no_gpu_says_what_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert by_item()["GPU"].state == "missing"
    assert (
        by_item()["ONNX Runtime on CUDA"].advice == "see GPU"
        or "onnxruntime-gpu" in by_item()["ONNX Runtime on CUDA"].advice
    )


def test_an_onnxruntime_without_cuda_is_told_from_one_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = SimpleNamespace(get_available_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(doctor, "onnxruntime", lambda: plain)
    finding = by_item()["ONNX Runtime on CUDA"]
    assert (finding.found, finding.state) == ("built without CUDA", "missing")
    assert "pip install onnxruntime-gpu" in finding.advice


def test_a_missing_library_comes_with_its_fix_readable_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> Any:
        raise MissingDependencyError(f"{module} cannot be imported; install it with: pip install 'gate2static[gpu]'")

    monkeypatch.setattr(doctor, "require", missing)
    printer = console(width=300)
    with printer.capture() as capture:
        printer.print(findings_table(diagnose()))
    assert "pip install 'gate2static[gpu]' (needed for `export --trt`)" in capture.get().replace("] (", "] (")
