"""The machine and the libraries that latencies hold for; nothing that names a host or a person."""

import os
import platform
from importlib import metadata
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

_LIBRARIES = ("gate2static", "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx")


class Environment(BaseModel):
    """Where a measurement was made.

    Attributes:
        cores: CPU cores this process may use.
        threads: CPU threads a network was given.
        gpu_compute_capability: such as "8.9".
        versions: of the libraries that are installed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str
    python: str
    cpu: str
    cores: int
    threads: int
    gpu: str | None
    gpu_compute_capability: str | None
    versions: dict[str, str]


def describe_environment(*, threads: int) -> Environment:
    """This machine, now."""
    has_gpu = torch.cuda.is_available()
    return Environment(
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        cpu=cpu_model(),
        cores=usable_cores(),
        threads=threads,
        gpu=torch.cuda.get_device_name() if has_gpu else None,
        gpu_compute_capability="{}.{}".format(*torch.cuda.get_device_capability()) if has_gpu else None,
        versions=installed_versions(),
    )


def installed_versions() -> dict[str, str]:
    """Version of each library that matters to latency and is installed, found without importing it."""
    found: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def cpu_model() -> str:
    """The processor's name, or its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
