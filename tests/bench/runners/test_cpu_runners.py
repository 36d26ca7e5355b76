"""The runners of OpenVINO and of compiled torch: what they time, and what they say where they cannot."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gate2static.bench import benchmark
from gate2static.bench.runners import openvino as openvino_runner_module
from gate2static.bench.runners.torch_compiled import compiler
from gate2static.errors import BenchError, MissingDependencyError

QUICK: dict[str, Any] = {"rounds": 2, "warmup_s": 0.0, "duration_s": 0.0, "min_runs": 4, "threads": 1}


def test_openvino_times_onnx_at_the_batch_size(make_onnx: Callable[..., Path]) -> None:
    pytest.importorskip("openvino")
    [target] = benchmark([make_onnx()], backends=["openvino"], batch_size=3, **QUICK).targets
    assert (target.backend, target.runs) == ("openvino", 4)
    assert target.median_ms > 0


@pytest.mark.parametrize(
    ("shape", "message"),
    [({"batch": 3}, "fixed batch size 3, not 2"), ({"size": "side"}, "only the first dimension varying")],
)
def test_inputs_that_openvino_cannot_have_are_refused(
    make_onnx: Callable[..., Path], shape: dict[str, Any], message: str
) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(BenchError, match=message):
        benchmark([make_onnx(**shape)], backends=["openvino"], batch_size=2, **QUICK)


def test_without_openvino_the_fix_is_named(make_onnx: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> Any:
        raise MissingDependencyError(f"{module} cannot be imported; install it with: pip install openvino")

    monkeypatch.setattr(openvino_runner_module, "require", missing)
    with pytest.raises(MissingDependencyError, match="pip install openvino"):
        benchmark([make_onnx()], backends=["openvino"], **QUICK)


def test_without_a_compiler_compiled_torch_says_what_to_install(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingDependencyError, match="needs a C\\+\\+ compiler, and none of .*g\\+\\+.* is installed"):
        benchmark([module], backends=["torch-compiled"], **QUICK)
    with pytest.raises(MissingDependencyError):
        compiler()
