"""The machine and the libraries that latencies were measured with, without names of hosts or persons."""

import os
import platform
from importlib import metadata
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

_LIBRARIES = ("gate2static", "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx")


class Environment(BaseModel):
    """The machine and the libraries of a measurement.

    Attributes:
        system: The operating system and the architecture.
        python: Python's version.
        cpu: The processor's name.
        cores: The CPU cores that the process may use.
        threads: The CPU threads that the networks used.
        gpu: The GPU's name; None without a GPU.
        gpu_compute_capability: The GPU's compute capability, such as "8.9"; None without a GPU.
        versions: The versions of the installed libraries by name.
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
    """Describes this machine, for networks that use so many CPU threads."""
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
    """Returns the versions of the installed libraries that matter to latency, without importing them."""
    versions: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def cpu_model() -> str:
    """Returns the processor's name, or its architecture where the system does not tell the name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def usable_cores() -> int:
    """Returns the number of cores that this process may use."""
    # Containers and `taskset` leave a process fewer cores than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
