"""What this machine can run, and what is missing for the rest."""

import importlib.metadata
import os
import platform
from dataclasses import asdict, dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from gate2static.errors import MissingDependencyError
from gate2static.export.optional import require


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what.
        found: version or device; what is wrong when `works` is false.
        works: whether it can be used here.
        enables: what it is for.
    """

    subject: str
    found: str
    works: bool
    enables: str


def examine() -> tuple[Finding, ...]:
    """Looks at the libraries and devices of this machine; imports them, so that a broken one is found."""
    return (
        Finding(
            subject="Python",
            found=f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            works=True,
            enables="everything",
        ),
        _library("torch", "torch", "train, prune, verify, bench torch"),
        _gpu(),
        _library("onnx", "onnx", "export ONNX"),
        _library("onnxruntime", "ONNX Runtime", "verify and bench ONNX"),
        _onnxruntime_cuda(),
        _library("tensorrt_rtx", "TensorRT-RTX", "build engines without a GPU, run them with one"),
        _library("tensorrt", "TensorRT", "build and run engines on this machine's GPU"),
    )


def doctor_table(findings: tuple[Finding, ...]) -> Table:
    """Returns the findings for a terminal."""
    table = Table("", "subject", title="gate2static doctor")
    table.add_column("found", overflow="fold")
    table.add_column("for")
    for finding in findings:
        mark = "[green]yes[/]" if finding.works else "[yellow]no[/]"
        table.add_row(mark, finding.subject, escape(finding.found), finding.enables)
    return table


def as_json(findings: tuple[Finding, ...]) -> list[dict[str, Any]]:
    """Returns the findings as plain values."""
    return [asdict(finding) for finding in findings]


def _library(module: str, subject: str, enables: str) -> Finding:
    try:
        loaded = require(module)
    except MissingDependencyError as error:
        return Finding(subject=subject, found=str(error), works=False, enables=enables)
    version = getattr(loaded, "__version__", None) or importlib.metadata.version(module)
    return Finding(subject=subject, found=str(version), works=True, enables=enables)


def _gpu() -> Finding:
    import torch

    enables = "train on the GPU, bench on CUDA"
    if not torch.cuda.is_available():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU only"
        found = f"torch is built for {built} and sees no GPU; check the driver with nvidia-smi"
        return Finding(subject="NVIDIA GPU", found=found, works=False, enables=enables)
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    found = "; ".join(f"{d.name}, {d.total_memory / 2**30:.0f} GiB, compute {d.major}.{d.minor}" for d in devices)
    return Finding(subject="NVIDIA GPU", found=found, works=True, enables=enables)


def _onnxruntime_cuda() -> Finding:
    import torch

    try:
        providers = require("onnxruntime").get_available_providers()
    except MissingDependencyError:
        providers = []
    built = "CUDAExecutionProvider" in providers
    found = "built in" if built else "this onnxruntime has no CUDA provider; pip install 'gate2static[gpu]'"
    if built and not torch.cuda.is_available():
        found = "built in, but there is no GPU for it"
    return Finding(
        subject="ONNX Runtime on CUDA",
        found=found,
        works=built and torch.cuda.is_available(),
        enables="bench ONNX on the GPU",
    )
