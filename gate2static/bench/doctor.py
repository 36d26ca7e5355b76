"""The diagnosis of this machine: the backends that it can run, and how to get the missing ones."""

import platform
from dataclasses import dataclass
from typing import Literal

import torch
from rich.table import Table

from gate2static.bench.environment import cpu_model, usable_cores
from gate2static.bench.runners.torch_compiled import compiler
from gate2static.errors import MissingDependencyError
from gate2static.runtimes.onnxruntime import onnxruntime
from gate2static.runtimes.optional import require
from gate2static.terminal import styled

State = Literal["ok", "missing"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result for one library or device.

    Attributes:
        item: The library or device.
        found: A version, a name, or the problem.
        state: Whether the item can be used.
        advice: The way to get the item, or what works without it; empty where nothing is missing.
    """

    item: str
    found: str
    state: State
    advice: str = ""


def diagnose() -> tuple[Finding, ...]:
    """Checks the CPU, the GPU and every deployment library; a missing one is not an error, it only costs a backend."""
    cpu = f"{cpu_model()}, {usable_cores()} cores, {torch.get_num_threads()} torch threads"
    return (
        Finding(item="Python", found=f"{platform.python_version()} on {platform.system()}", state="ok"),
        Finding(item="CPU", found=cpu, state="ok"),
        _torch(),
        _gpu(),
        _library("training", "lightning_fabric", "needed for `train`, `sweep`, `search` and `demo`"),
        _library("ONNX export", "onnxscript", "needed for `export`"),
        _onnxruntime_cpu(),
        _library("OpenVINO", "openvino", "needed to time networks with OpenVINO"),
        _compiler(),
        _onnxruntime_cuda(),
        _library("TensorRT-RTX", "tensorrt_rtx", "needed for `export --trt-rtx`, which builds engines without a GPU"),
        _tensorrt(),
    )


def findings_table(findings: tuple[Finding, ...]) -> Table:
    """Returns a table of the findings for the terminal."""
    table = Table("", "item", "found", "what to do")
    for finding in findings:
        mark = styled(finding.state, "green" if finding.state == "ok" else "yellow")
        table.add_row(mark, finding.item, finding.found, finding.advice)
    return table


def _torch() -> Finding:
    cuda = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    return Finding(item="torch", found=f"{torch.__version__}, {cuda}", state="ok")


def _gpu() -> Finding:
    if torch.cuda.is_available():
        capability = "{}.{}".format(*torch.cuda.get_device_capability())
        name = f"{torch.cuda.get_device_name()}, compute capability {capability}"
        return Finding(item="GPU", found=name, state="ok")
    if not torch.version.cuda:
        advice = "install a CUDA build of torch if this machine has an NVIDIA GPU"
    else:
        advice = "install NVIDIA's driver if this machine has a GPU; CPU backends and TensorRT-RTX builds work without"
    return Finding(item="GPU", found="none that torch can use", state="missing", advice=advice)


def _library(item: str, module: str, purpose: str) -> Finding:
    try:
        loaded = require(module)
    except MissingDependencyError as error:
        return Finding(item=item, found="not usable", state="missing", advice=f"{error} ({purpose})")
    return Finding(item=item, found=str(loaded.__version__), state="ok")


def _compiler() -> Finding:
    try:
        return Finding(item="torch.compile on the CPU", found=compiler(), state="ok")
    except MissingDependencyError as error:
        return Finding(item="torch.compile on the CPU", found="no C++ compiler", state="missing", advice=str(error))


def _onnxruntime_cpu() -> Finding:
    return _library("ONNX Runtime on the CPU", "onnxruntime", "needed to check and time ONNX models")


def _onnxruntime_cuda() -> Finding:
    item = "ONNX Runtime on CUDA"
    try:
        providers = onnxruntime().get_available_providers()
    except MissingDependencyError:
        return Finding(item=item, found="no ONNX Runtime", state="missing", advice="see ONNX Runtime on the CPU")
    if "CUDAExecutionProvider" not in providers:
        advice = "pip uninstall onnxruntime && pip install onnxruntime-gpu (Linux x86-64 and Windows)"
        return Finding(item=item, found="built without CUDA", state="missing", advice=advice)
    if not torch.cuda.is_available():
        return Finding(item=item, found="installed, but no GPU", state="missing", advice="see GPU")
    return Finding(item=item, found=", ".join(providers), state="ok")


def _tensorrt() -> Finding:
    finding = _library("TensorRT", "tensorrt", "needed for `export --trt`")
    # Unlike TensorRT-RTX, TensorRT measures kernels on the GPU while it builds an engine.
    if finding.state == "ok" and not torch.cuda.is_available():
        return Finding(item="TensorRT", found=f"{finding.found}, but no GPU", state="missing", advice="see GPU")
    return finding
