"""Measure the units of networks on this machine: a latency table."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from statistics import median
from typing import TypeGuard, get_args

import torch
from rich.table import Table
from torch import Tensor, nn

from gate2static.bench.backends import BACKENDS
from gate2static.bench.environment import describe_environment
from gate2static.bench.timing import time_runs
from gate2static.errors import BenchError
from gate2static.latency import LatencyTable
from gate2static.latency.grid import Grid
from gate2static.latency.kernel_units import Unit
from gate2static.latency.kernels import BLOCK, REORDER, UNALIGNED, Backend, forms, lower
from gate2static.latency.operators import record
from gate2static.latency.table import is_layer
from gate2static.profiling.node_networks import UnitNetwork
from gate2static.profiling.unit_networks import MEAN, repeated
from gate2static.progress import progress_bar

_FEW, _SOME, _MANY = 1, 3, 9  # copies of a unit that are timed: some of a large one, many of a small one
_WARMUP_S, _TIMED_S, _RUNS = 0.004, 0.02, 5
_FIRST = ("reduce", MEAN, "relu", "add", "slice")  # others are measured together with these
_SHORTEST_MS = 1e-4
_POSITIONS, _CHANNELS, _BYTES = 5, 5, 6  # how many sizes of an axis are measured

Network = tuple[nn.Module, tuple[Tensor, ...]]


def profile(
    networks: Iterable[Network], *, backend: str = "onnxruntime", threads: int | None = None, progress: bool = True
) -> LatencyTable:
    """Measure the units that networks are made of, over the range of sizes that they have there.

    A unit's time is what one more of it adds to a network, so that neither the call nor the conversion of inputs
    counts. Sessions are opened, warmed up, timed and closed one after another.

    Args:
        networks: modules in evaluation mode with example inputs. The table predicts what is made of the same units;
            channel counts and sizes in between are interpolated.
        backend: one that runs torch or ONNX.
        threads: CPU threads, at least 1; None: as many as torch uses.
        progress: show a bar on stderr, where that is a terminal.

    Raises:
        BenchError: an unknown backend, or one that runs engines only; fewer than 1 thread.
        MissingDependencyError: a backend whose library or device is not there.
    """
    backend, threads = check_profilable(backend, threads)
    plan = _plan(networks, backend)
    grids: dict[str, Grid] = {}
    with progress_bar(visible=progress) as bar:
        task = bar.add_task("profiling", total=sum(len(cells) for _, cells in plan.values()))
        for kind, (axes, measured) in plan.items():
            bar.update(task, description=f"profiling {kind}")
            found: dict[tuple[int, ...], float] = {}
            for cell in product(*axes):
                if cell in measured:
                    found[cell] = _unit_ms(Unit(kind=kind, sizes=cell), grids, backend, threads)
                    bar.advance(task)
                else:
                    found[cell] = _in_proportion(cell, axes, found)
            grids[kind] = Grid(kind=kind, axes=axes, ms=tuple(found.values()))
    environment = describe_environment(threads=threads)
    device = environment.gpu if "cuda" in backend else environment.cpu
    return LatencyTable(
        name=f"{backend} on {device}, {threads} thread{'s' * (threads > 1)}",
        backend=backend,
        threads=threads,
        environment={"system": environment.system, "cpu": environment.cpu, **environment.versions},
        overhead_ms=_overhead_ms(backend, threads),
        grids=tuple(grids.values()),
    )


def _can_profile(backend: str) -> TypeGuard[Backend]:
    return backend in get_args(Backend)


def check_profilable(backend: str, threads: int | None) -> tuple[Backend, int]:
    """The backend and the threads to profile with, if that can be done here; see `profile` for the errors."""
    if not _can_profile(backend):
        raise BenchError(f"units cannot be profiled on {backend!r}; allowed: {', '.join(get_args(Backend))}")
    threads = torch.get_num_threads() if threads is None else threads
    if threads < 1:
        raise BenchError(f"units cannot be profiled with {threads} threads; give at least 1")
    _overhead_ms(backend, threads)
    return backend, threads


_Plan = Mapping[str, tuple[tuple[tuple[int, ...], ...], set[tuple[int, ...]]]]


def _plan(networks: Iterable[Network], backend: str) -> _Plan:
    """Per kind the axes, and the cells worth measuring: none with more work than the networks' largest."""
    seen: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for network, inputs in networks:
        for step in lower(record(network, inputs), backend):
            for unit in (form for found in step.units for form in forms(found, backend)):
                seen[unit.kind] |= {unit.sizes, _narrow(unit)}
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
        cells = {cell for cell in product(*axes) if math.prod(cell) <= most or cell == tuple(a[0] for a in axes)}
        plan[kind] = (axes, cells)
    return plan


def _narrow(unit: Unit) -> tuple[int, ...]:
    """The sizes of a unit with few channels: gates leave any number."""
    if "convolution" not in unit.kind and unit.kind != "linear":
        return unit.sizes
    few = BLOCK + 1 if unit.kind.endswith(UNALIGNED) else BLOCK
    return (unit.sizes[0], *(min(size, few) for size in unit.sizes[1:]))


def _axis(sizes: Sequence[int], points: int) -> tuple[int, ...]:
    """At most so many of the sizes: those nearest to a geometric series over their range."""
    distinct = sorted(set(sizes))
    if len(distinct) <= points:
        return tuple(distinct)
    span = distinct[-1] / distinct[0]
    series = (distinct[0] * span ** (i / (points - 1)) for i in range(points))
    return tuple(sorted({min(distinct, key=lambda size: abs(math.log(size / wanted))) for wanted in series}))


def _unit_ms(unit: Unit, grids: Mapping[str, Grid], backend: str, threads: int) -> float:
    copies = _SOME if is_layer(unit) else _MANY
    few, many = repeated(unit, _FEW), repeated(unit, copies)
    added = (_network_ms(many, backend, threads) - _network_ms(few, backend, threads)) / (copies - _FEW)
    added -= sum(grids[other.kind].at(other.sizes) for other in few.others if other.kind in grids)
    if unit.kind == REORDER:
        added /= 2  # one into blocks, one out of them
    return max(added, _SHORTEST_MS)


def _network_ms(network: UnitNetwork, backend: str, threads: int) -> float:
    known = BACKENDS[backend]
    with known.open(network.source(known.takes), batch_size=1, threads=threads) as runner:
        return median(time_runs(runner.run, warmup_s=_WARMUP_S, duration_s=_TIMED_S, min_runs=_RUNS))


def _overhead_ms(backend: str, threads: int) -> float:
    """A network with one tiny unit."""
    return _network_ms(repeated(Unit(kind="relu", sizes=(64,)), 1), backend, threads)


def _in_proportion(
    cell: tuple[int, ...], axes: tuple[tuple[int, ...], ...], found: Mapping[tuple[int, ...], float]
) -> float:
    """The time of a cell too large to measure, from the one before it along the last axis that has one."""
    dim = max(d for d, (size, axis) in enumerate(zip(cell, axes, strict=True)) if size > axis[0])
    before = axes[dim][axes[dim].index(cell[dim]) - 1]
    return found[(*cell[:dim], before, *cell[dim + 1 :])] * cell[dim] / before


def profile_table(table: LatencyTable) -> Table:
    """What was measured, for the terminal: one row a kind of unit."""
    shown = Table("unit", "sizes", title=f"{table.name}; {table.overhead_ms:.4f} ms a forward pass besides")
    shown.add_column("ms", justify="right", no_wrap=True)
    for grid in table.grids:
        sizes = ", ".join(f"{axis[0]}" if len(axis) == 1 else f"{axis[0]}–{axis[-1]}" for axis in grid.axes)
        shown.add_row(grid.kind, sizes, f"{min(grid.ms):.4f}–{max(grid.ms):.4f}")
    return shown
