"""The measurement of a latency table: the time of every kind of kernel on this machine."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from statistics import median
from typing import TypeGuard, get_args

import torch
from rich.table import Table
from torch import Tensor, nn

from gate2static.arguments import MOST_THREADS, require_count
from gate2static.bench.backends import BACKENDS
from gate2static.bench.environment import describe_environment
from gate2static.bench.timing import time_runs
from gate2static.errors import BenchError
from gate2static.latency import LatencyTable
from gate2static.latency.grid import Grid
from gate2static.latency.kernel_kinds import Kernel
from gate2static.latency.kernels import BLOCK, REORDER, UNALIGNED, Backend, forms, lower
from gate2static.latency.operators import record
from gate2static.latency.table import is_layer
from gate2static.profiling.kernel_networks import MEAN, repeated
from gate2static.profiling.node_networks import KernelNetwork
from gate2static.progress import progress_bar

_FEW = 1
"""The copies of a kernel in the smaller of two networks."""
_SOME = 3
"""The copies of a large kernel in the larger network."""
_MANY = 9
"""The copies of a small kernel in the larger network."""
_WARMUP_S = 0.004
_TIMED_S = 0.02
_RUNS = 5
_FIRST = ("reduce", MEAN, "relu", "add", "slice")
"""The kinds that are measured first, because networks of other kinds contain them."""
_SHORTEST_MS = 1e-4
TINY = Kernel(kind="relu", sizes=(64,))
"""A kernel that takes almost no time: what a network of it takes is overhead."""
_POSITIONS = 5
"""The number of sizes that are measured along an axis of positions or rows."""
_CHANNELS = 5
"""The number of sizes that are measured along an axis of channels."""
_BYTES = 6
"""The number of sizes that are measured along an axis of bytes or pieces."""

Network = tuple[nn.Module, tuple[Tensor, ...]]
"""A module in evaluation mode with its example inputs."""


def profile(
    networks: Iterable[Network], *, backend: str = "onnxruntime", threads: int | None = None, progress: bool = True
) -> LatencyTable:
    """Measures the kernels that networks consist of, over the range of sizes that the kernels have in these networks.

    A kernel's time is the time that one more copy adds to a network, so the overhead of a call and the conversion of
    inputs do not count. Sessions are opened, warmed up, timed and closed one after another.

    Args:
        networks: Modules in evaluation mode with example inputs. The table can predict networks of the same kernels;
            channel counts and sizes in between are interpolated.
        backend: A backend that runs torch or ONNX.
        threads: CPU threads, at least 1; None uses torch's number.
        progress: Whether to show a bar on stderr, where stderr is a terminal.

    Raises:
        BenchError: The backend is unknown or runs engines only, or there is fewer than 1 thread.
        MissingDependencyError: The backend's library or device is missing.
    """
    backend, threads = check_profilable(backend, threads)

    def measure(kernel: Kernel, copies: int) -> float:
        return _network_ms(repeated(kernel, copies), backend, threads)

    grids = measured_grids(plan_measurement(networks, backend), measure, progress=progress)
    environment = describe_environment(threads=threads)
    device = environment.gpu if "cuda" in backend else environment.cpu
    return LatencyTable(
        name=f"{backend} on {device}, {threads} thread{'s' * (threads > 1)}",
        backend=backend,
        threads=threads,
        environment={"system": environment.system, "cpu": environment.cpu, **environment.versions},
        overhead_ms=_overhead_ms(backend, threads),
        grids=grids,
    )


Measure = Callable[[Kernel, int], float]
"""Maps a kernel and a number of copies to the time in ms of a network with so many copies."""


def measured_grids(plan: "Plan", measure: Measure, *, progress: bool) -> tuple[Grid, ...]:
    """Measures every kind of kernel of a plan, always in the same order.

    Args:
        plan: The plan, as of `plan_measurement`.
        measure: Measures one network.
        progress: Whether to show a bar on stderr, where stderr is a terminal.
    """
    grids: dict[str, Grid] = {}
    with progress_bar(visible=progress) as bar:
        task = bar.add_task("profiling", total=sum(len(cells) for _, cells in plan.values()))
        for kind, (axes, measured) in plan.items():
            bar.update(task, description=f"profiling {kind}")
            times_ms: dict[tuple[int, ...], float] = {}
            for cell in product(*axes):
                if cell in measured:
                    times_ms[cell] = _kernel_ms(Kernel(kind=kind, sizes=cell), grids, measure)
                    bar.advance(task)
                else:
                    times_ms[cell] = _in_proportion(cell, axes, times_ms)
            grids[kind] = Grid(kind=kind, axes=axes, ms=tuple(times_ms.values()))
    return tuple(grids.values())


_BY_KIT = "tensorrt"
"""The backend that is timed elsewhere, by trtexec."""


def _can_profile(backend: str) -> TypeGuard[Backend]:
    return backend in get_args(Backend) and backend != _BY_KIT


def check_profilable(backend: str, threads: int | None) -> tuple[Backend, int]:
    """Checks that a backend can be profiled here, with one short measurement.

    Returns:
        The backend and the number of threads.

    Raises:
        BenchError: The backend is unknown or runs engines only, or there is fewer than 1 thread.
        MissingDependencyError: The backend's library or device is missing.
    """
    if not _can_profile(backend):
        here = ", ".join(known for known in get_args(Backend) if known != _BY_KIT)
        raise BenchError(
            f"kernels cannot be profiled on {backend!r}; allowed: {here}. For TensorRT, "
            "`gate2static profile --emit DIR` writes what trtexec times on the board"
        )
    threads = torch.get_num_threads() if threads is None else threads
    require_count(threads, name="threads", most=MOST_THREADS, error=BenchError)
    _overhead_ms(backend, threads)
    return backend, threads


Plan = Mapping[str, tuple[tuple[tuple[int, ...], ...], set[tuple[int, ...]]]]
"""By kind, the sizes along each axis of its grid, and the cells to measure."""


def plan_measurement(networks: Iterable[Network], backend: str) -> Plan:
    """Plans the measurement: by kind, the axes, and the cells with at most the work of the networks' largest kernel."""
    seen: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for network, inputs in networks:
        for step in lower(record(network, inputs), backend):
            for step_kernel in step.kernels:
                for kernel in forms(step_kernel, backend):
                    seen[kernel.kind] |= {kernel.sizes, _narrow(kernel)}
    everywhere = {size for kind in seen for sizes in seen[kind] if len(sizes) == 1 for size in sizes}
    if not seen:
        raise BenchError("nothing to profile: the networks run no operators")
    bytes_range = {(min(everywhere, default=2**12),), (max(everywhere, default=2**22),)}
    for kind in (*_FIRST, REORDER) if backend == "onnxruntime" else _FIRST:
        seen[kind] |= bytes_range if kind != "slice" else seen.get("concat", set()) or {(1, 2**12), (1, 2**20)}
    plan = {}
    for kind in sorted(seen, key=lambda kind: (kind not in _FIRST, kind)):
        first = _POSITIONS if "convolution" in kind or kind in ("linear", "matmul") else _BYTES
        columns = list(zip(*seen[kind], strict=True))
        axes = tuple(_axis(sizes, _CHANNELS if i else first) for i, sizes in enumerate(columns))
        most = max(math.prod(sizes) for sizes in seen[kind])
        smallest = tuple(sizes[0] for sizes in axes)
        cells = {cell for cell in product(*axes) if math.prod(cell) <= most or cell == smallest}
        plan[kind] = (axes, cells)
    return plan


def _narrow(kernel: Kernel) -> tuple[int, ...]:
    """Returns the sizes of a kernel with few channels, because gates leave any number of channels."""
    if "convolution" not in kernel.kind and kernel.kind != "linear":
        return kernel.sizes
    few = BLOCK + 1 if kernel.kind.endswith(UNALIGNED) else BLOCK
    return (kernel.sizes[0], *(min(size, few) for size in kernel.sizes[1:]))


def _axis(sizes: Sequence[int], points: int) -> tuple[int, ...]:
    """Returns at most so many of the sizes: those nearest to a geometric series over their range."""
    distinct = sorted(set(sizes))
    if len(distinct) <= points:
        return tuple(distinct)
    span = distinct[-1] / distinct[0]
    series = (distinct[0] * span ** (i / (points - 1)) for i in range(points))
    return tuple(sorted({_nearest(distinct, size) for size in series}))


def _nearest(sizes: Sequence[int], target: float) -> int:
    """Returns the size with the smallest ratio to a target."""
    return min(sizes, key=lambda size: abs(math.log(size / target)))


def _kernel_ms(kernel: Kernel, grids: Mapping[str, Grid], measure: Measure) -> float:
    copies = _SOME if is_layer(kernel) else _MANY
    others = repeated(kernel, _FEW).others
    added = (measure(kernel, copies) - measure(kernel, _FEW)) / (copies - _FEW)
    added -= sum(grids[other.kind].at(other.sizes) for other in others if other.kind in grids)
    if kernel.kind == REORDER:
        added /= 2  # each copy has two reorders: one into blocks, and one out of them
    return max(added, _SHORTEST_MS)


def _network_ms(network: KernelNetwork, backend: str, threads: int) -> float:
    entry = BACKENDS[backend]
    with entry.open(network.source(entry.takes), batch_size=1, threads=threads) as runner:
        return median(time_runs(runner.run, warmup_s=_WARMUP_S, duration_s=_TIMED_S, min_runs=_RUNS))


def _overhead_ms(backend: str, threads: int) -> float:
    """Returns the time of a network with one tiny kernel, which is almost only overhead."""
    return _network_ms(repeated(TINY, 1), backend, threads)


def _in_proportion(
    cell: tuple[int, ...], axes: tuple[tuple[int, ...], ...], times_ms: Mapping[tuple[int, ...], float]
) -> float:
    """Returns the time of a cell that is too large to measure, in proportion to its predecessor's.

    The predecessor is the cell before it along the last axis where there is one.
    """
    dim = max(d for d, (size, axis) in enumerate(zip(cell, axes, strict=True)) if size > axis[0])
    before = axes[dim][axes[dim].index(cell[dim]) - 1]
    return times_ms[(*cell[:dim], before, *cell[dim + 1 :])] * cell[dim] / before


def profile_table(table: LatencyTable) -> Table:
    """Returns a table of the measurements for the terminal, one row per kind of kernel."""
    rows = Table("kernel", "sizes", title=f"{table.name}; {table.overhead_ms:.4f} ms of overhead per forward pass")
    rows.add_column("ms", justify="right", no_wrap=True)
    for grid in table.grids:
        sizes = ", ".join(f"{axis[0]}" if len(axis) == 1 else f"{axis[0]}–{axis[-1]}" for axis in grid.axes)
        rows.add_row(grid.kind, sizes, f"{min(grid.ms):.4f}–{max(grid.ms):.4f}")
    return rows
