"""A latency table from a machine that runs TensorRT and nothing of ours: files for `trtexec` go out, times come back.

`write_kit` writes the networks that `profile` would time as ONNX files, with a shell script of `trtexec` calls.
`read_kit` makes the table of the times that the script left beside them.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from gate2static.errors import BenchError
from gate2static.export import export_onnx
from gate2static.files import is_file, read_bytes, write_atomically
from gate2static.latency import LatencyTable, Precision, calibrated
from gate2static.latency.kernel_kinds import Kernel
from gate2static.profiling.kernel_networks import repeated
from gate2static.profiling.measuring import TINY, Plan, measured_grids, plan_measurement
from gate2static.profiling.networks import static_variants
from gate2static.progress import progress_bar
from gate2static.static import StaticModel, load_static
from gate2static.strict_json import read_json, read_model

BACKEND = "tensorrt"
_FILE = "kit.json"
_SCRIPT = "run.sh"
_DEVICE = "device.txt"
_LONGEST_NAME = 80
_MOST_CELLS = 10_000
_OPTIONS = {"fp32": "", "fp16": "--fp16", "int8": "--int8 --fp16"}

_RUN = """#!/bin/sh
# Times every ONNX file of this folder with trtexec; times that are there already stay, so it can be interrupted.
# TRTEXEC=/path/to/trtexec sh run.sh
cd "$(dirname "$0")" || exit 1
TRTEXEC=${TRTEXEC:-$(command -v trtexec || echo /usr/src/tensorrt/bin/trtexec)}
[ -x "$TRTEXEC" ] || { echo "there is no trtexec at $TRTEXEC; set TRTEXEC" >&2; exit 1; }
{ tr -d '\\0' < /proc/device-tree/model || nvidia-smi --query-gpu=name --format=csv,noheader; } > @DEVICE@ 2>/dev/null
failed=0
for file in *.onnx; do
  name=${file%.onnx}
  [ -s "$name.times.json" ] && continue
  echo "$name"
  if "$TRTEXEC" --onnx="$file" @OPTIONS@ --useCudaGraph --noDataTransfers --warmUp=200 --duration=1 \\
      --timingCacheFile=timing.cache --exportTimes="$name.part" > "$name.log" 2>&1; then
    mv "$name.part" "$name.times.json"
  else
    failed=$((failed + 1)); echo "failed, see $name.log" >&2
  fi
done
[ "$failed" -eq 0 ]
"""


class _Entry(BaseModel):
    """One file of kernels: the kernel and the number of copies in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    sizes: tuple[PositiveInt, ...]
    copies: PositiveInt


class _Kind(BaseModel):
    """The plan of one kind of kernel: the axes of its grid, and the cells to measure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    axes: tuple[tuple[PositiveInt, ...], ...] = Field(min_length=1, max_length=8)
    cells: tuple[tuple[PositiveInt, ...], ...]

    @model_validator(mode="after")
    def _is_small(self) -> Self:
        """Refuses grids that nobody plans, which would take for ever to walk through."""
        if math.prod(len(axis) for axis in self.axes) > _MOST_CELLS:
            raise ValueError(f"a grid has at most {_MOST_CELLS:,} cells")
        return self


class _Kit(BaseModel):
    """The content of `kit.json`.

    Attributes:
        precision: What trtexec computes in.
        plan: The plan, by kind of kernel.
        files: What lies in `kernel-00000.onnx` and the following files.
        networks: The number of whole networks: `network-0.onnx`, whose static folder is `network-0`, and the following.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["gate2static profile kit"] = "gate2static profile kit"
    version: Literal[1] = 1
    precision: Precision
    plan: dict[str, _Kind]
    files: tuple[_Entry, ...] = Field(max_length=100_000)
    networks: int = Field(ge=1, le=64)


def write_kit(
    network: Path, folder: Path, *, precision: Precision = "fp16", model: str | None = None, progress: bool = True
) -> int:
    """Writes what `trtexec` is to time, and the script that does it.

    Args:
        network: A static network's folder, or a gated network's checkpoint, of which the static networks that it may
            become are taken, as for `profile_gated`.
        folder: The folder to write to.
        precision: What trtexec computes in.
        model: The name of the code that builds the network of an own training loop's checkpoint.
        progress: Whether to show a bar on stderr, where stderr is a terminal.

    Returns:
        The number of ONNX files.

    Raises:
        ArtefactError: The folder of the network is not a static network's.
        CheckpointError: The file is not a gated network's checkpoint.
        BenchError: The folder holds something already, or a file cannot be written.
    """
    # Times of an earlier kit would pass for those of this one.
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BenchError(f"{folder} is not empty, and its times would mix with those of other files; give a new folder")
    statics = _statics(network, model)
    plan = plan_measurement([(static.deployed(), static.example_inputs(1)) for static in statics], BACKEND)
    entries: dict[_Entry, int] = {_entry(TINY, 1): 0}

    def note(kernel: Kernel, copies: int) -> float:
        entries.setdefault(_entry(kernel, copies), len(entries))
        return 1.0

    measured_grids(plan, note, progress=False)
    with progress_bar(visible=progress) as bar:
        for entry, number in bar.track(entries.items(), total=len(entries), description="writing kernels"):
            kernel = repeated(Kernel(kind=entry.kind, sizes=entry.sizes), entry.copies)
            write_atomically(folder / f"{_kernel_name(number)}.onnx", kernel.onnx(), error=BenchError)
    for number, static in enumerate(statics):
        export_onnx(static, folder / f"network-{number}.onnx", batch_size=1)
        static.save(folder / f"network-{number}")
    kinds = {kind: _Kind(axes=axes, cells=tuple(sorted(cells))) for kind, (axes, cells) in plan.items()}
    kit = _Kit(precision=precision, plan=kinds, files=tuple(entries), networks=len(statics))
    script = _RUN.replace("@OPTIONS@", _OPTIONS[precision]).replace("@DEVICE@", _DEVICE)
    write_atomically(folder / _SCRIPT, script.encode(), error=BenchError)
    write_atomically(folder / _FILE, (kit.model_dump_json(indent=1) + "\n").encode(), error=BenchError)
    return len(entries) + len(statics)


def read_kit(folder: Path) -> LatencyTable:
    """Makes a latency table of the times that `run.sh` left in a kit's folder.

    Args:
        folder: The folder, as it came back from the board.

    Raises:
        BenchError: It is no kit's folder, or times are missing or damaged.
        ArtefactError: A whole network in it is damaged.
    """
    advice = "`gate2static profile NETWORK --emit DIR` makes one"
    kit = read_model(folder / _FILE, _Kit, what="profile kit", advice=advice, error=BenchError)
    names = [_kernel_name(number) for number in range(len(kit.files))]
    names += [f"network-{number}" for number in range(kit.networks)]
    missing = [name for name in names if not is_file(_times(folder, name))]
    if missing:
        raise BenchError(
            f"{folder} has no times of {len(missing)} of {len(names)} files, such as {missing[0]}; run "
            f"`sh {_SCRIPT}` there on the board, and look at the .log of what failed"
        )
    entries = {entry: number for number, entry in enumerate(kit.files)}

    def read(kernel: Kernel, copies: int) -> float:
        entry = _entry(kernel, copies)
        if entry not in entries:
            what = f"{copies} × {kernel.kind} {kernel.sizes}"
            raise BenchError(f"{folder / _FILE} is damaged: it has no {what}; {advice}")
        return _median_ms(_times(folder, _kernel_name(entries[entry])))

    plan: Plan = {kind: (planned.axes, set(planned.cells)) for kind, planned in kit.plan.items()}
    device = _device(folder)
    alone = LatencyTable(
        name=f"{BACKEND} on {device}, {kit.precision}",
        backend="tensorrt",
        threads=1,
        precision=kit.precision,
        environment={"device": device},
        overhead_ms=read(TINY, 1),
        grids=measured_grids(plan, read, progress=False),
    )
    whole = [load_static(folder / f"network-{number}") for number in range(kit.networks)]
    times_ms = [_median_ms(_times(folder, f"network-{number}")) for number in range(kit.networks)]
    measured = [
        (static.deployed(), static.example_inputs(1), ms) for static, ms in zip(whole, times_ms, strict=True)
    ]
    return calibrated(alone, measured)


def _statics(network: Path, model: str | None) -> Sequence[StaticModel]:
    if network.is_dir():
        return [load_static(network)]
    from gate2static.restore import load_checkpoint  # a static network is profiled without training code

    return static_variants(load_checkpoint(network, model), BACKEND)


def _entry(kernel: Kernel, copies: int) -> _Entry:
    return _Entry(kind=kernel.kind, sizes=kernel.sizes, copies=copies)


def _kernel_name(number: int) -> str:
    return f"kernel-{number:05}"


def _times(folder: Path, name: str) -> Path:
    return folder / f"{name}.times.json"


def _median_ms(path: Path) -> float:
    """Returns the median time that the GPU took, of a file that `trtexec --exportTimes` wrote.

    Raises:
        BenchError: It is no such file.
    """
    content: Any = read_json(path, what="times of trtexec", error=BenchError)
    try:
        samples = [float(sample["computeMs"]) for sample in content]
        if samples and min(samples) >= 0:
            return median(samples)
    except (TypeError, KeyError, ValueError):
        pass
    raise BenchError(
        f"{path} holds no times of trtexec (a list with computeMs); delete it and run `sh {_SCRIPT}` again"
    )


def _device(folder: Path) -> str:
    """Returns the name of the board, as the script found it."""
    if not is_file(folder / _DEVICE):
        return "a board"
    text = read_bytes(folder / _DEVICE, what="device's name", error=BenchError, largest=4096).decode(errors="replace")
    return json.dumps(" ".join(text.split())[:_LONGEST_NAME])[1:-1] or "a board"
