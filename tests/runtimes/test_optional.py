"""Optional libraries: imported late, and missed with the command that installs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gate2static.errors import MissingDependencyError
from gate2static.runtimes.onnxruntime import open_cuda_session
from gate2static.runtimes.optional import require, require_gpu

# One process for all, as each takes seconds to import torch. What is None in `sys.modules` cannot be imported.
IMPORTS = """
import importlib, sys
missing = ["tensorrt", "tensorrt_rtx", "torch_pruning", "hypothesis"]
deployment = ["onnx", "onnx_ir", "onnxscript", "onnxruntime", "torch.onnx._internal.exporter._core"]
sys.modules.update(dict.fromkeys(missing))
for stage in ("gate2static", "gate2static.export", "gate2static.bench", "gate2static.train"):
    importlib.import_module(stage)
    late = [name for name in (*deployment, "lightning_fabric") if name in sys.modules]
    assert not late, f"{stage} imports {late}"
"""


def test_importing_says_nothing_needs_no_optional_library_and_leaves_deployment_and_fabric_for_later() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_library_that_is_not_installed_comes_with_its_fix() -> None:
    with pytest.raises(
        MissingDependencyError, match=r"no_such_library cannot be imported .* pip install no_such_library"
    ):
        require("no_such_library")


def test_a_library_that_does_not_load_comes_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_installed.py").write_text("raise OSError('libnvinfer.so.11: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependencyError, match=r"half_installed cannot be imported \(libnvinfer\.so\.11"):
        require("half_installed")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_one_line_says_so() -> None:
    with pytest.raises(MissingDependencyError, match=r"timing needs an NVIDIA GPU .* sees none"):
        require_gpu("timing")
    with pytest.raises(MissingDependencyError, match="ONNX Runtime on CUDA needs an NVIDIA GPU"):
        open_cuda_session(b"", label="m", provider_options={}, error=MissingDependencyError)


_RUNS_A_MODEL = """
import sys
import numpy as np
from onnx import TensorProto, helper
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in "xy")
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
if sys.argv[1] == "plain":
    import onnxruntime
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
else:
    from gate2static.runtimes.onnxruntime import open_session
    session = open_session(model)
session.run(None, {"x": np.zeros((1, 2), np.float32)})
"""


@pytest.mark.parametrize(("who", "writes"), [("plain", True), ("gate2static", False)])
def test_onnx_runtime_keeps_no_events_in_the_users_home(who: str, writes: bool, tmp_path: Path) -> None:
    outside = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "ORT_"))}
    subprocess.run([sys.executable, "-c", _RUNS_A_MODEL, who], check=True, env={**outside, "HOME": str(tmp_path)})
    files = list(tmp_path.rglob("*"))
    if writes and not files:
        pytest.skip("this ONNX Runtime has no telemetry")
    assert bool(files) == writes
