"""Latency of several networks, measured in rounds."""

import math
from collections.abc import Mapping, Sequence
from statistics import median

import torch

from gate2static.bench.backends import BACKENDS, Entry, pair_with_backends
from gate2static.bench.environment import describe_environment
from gate2static.bench.report import LatencyReport, TargetLatency, TimingProtocol, Transfers
from gate2static.bench.sources import Target, named_sources
from gate2static.bench.timing import time_runs
from gate2static.errors import BenchError, Gate2StaticError
from gate2static.progress import progress_bar


def benchmark(
    targets: Mapping[str, Target] | Sequence[Target],
    *,
    backends: Sequence[str] | None = None,
    batch_size: int = 1,
    rounds: int = 5,
    warmup_s: float = 0.2,
    duration_s: float = 3.0,
    min_runs: int = 10,
    threads: int | None = None,
    progress: bool = True,
) -> LatencyReport:
    """Measure the latency of networks, with trtexec's protocol, so that they can be compared.

    Each round takes every target in turn: load, warm up, time, close; rounds start at different targets. So a slow
    spell of the machine meets all of them, and the idle thread pool of one never runs against another.

    Args:
        targets: static networks, (module, inputs) pairs, static folders, `.onnx` or `.engine` files, in a list or
            with names; the first is what the others are compared with.
        backends: names from `BACKENDS`; None: torch for networks and folders, ONNX Runtime on the CPU for ONNX files,
            an engine's own library.
        batch_size: samples a run.
        rounds: how often each target is loaded and timed.
        warmup_s: seconds of warm-up, each round.
        duration_s: seconds of timed runs of each target, over all rounds; 0.3 with 3 rounds is a quick look.
        min_runs: timed runs of each target, over all rounds, at least.
        threads: CPU threads; None: as many as torch uses.
        progress: show a bar on stderr, where that is a terminal.

    Raises:
        BenchError: nothing that can be timed, an unknown backend, or a target that fails while running.
        MissingDependencyError: a backend whose library or GPU is not there.
    """
    countable = min(batch_size, rounds, min_runs, 1 if threads is None else threads) >= 1
    if not countable or not all(0 <= seconds < float("inf") for seconds in (warmup_s, duration_s)):
        raise BenchError(
            f"batch_size {batch_size}, rounds {rounds}, min_runs {min_runs} and threads {threads} must be at least 1, "
            f"and warmup_s {warmup_s} and duration_s {duration_s} not negative"
        )
    protocol = TimingProtocol(
        batch_size=batch_size, rounds=rounds, warmup_s=warmup_s, duration_s=duration_s, min_runs=min_runs
    )
    threads = torch.get_num_threads() if threads is None else threads
    entries = pair_with_backends(named_sources(targets), backends)
    measured: list[list[_Round]] = [[] for _ in entries]
    with progress_bar(visible=progress) as bar:
        task = bar.add_task("timing", total=rounds * len(entries))
        for index in range(rounds):
            for turn in range(len(entries)):
                which = (turn + index) % len(entries)
                bar.update(task, description=f"timing {entries[which].name} on {entries[which].backend}")
                measured[which].append(_one_round(entries[which], protocol, threads))
                bar.advance(task)
    return LatencyReport(
        protocol=protocol,
        environment=describe_environment(threads=threads),
        targets=tuple(_summed_up(entry, rounds_) for entry, rounds_ in zip(entries, measured, strict=True)),
    )


_Round = tuple[tuple[float, ...], Transfers | None]


def _one_round(entry: Entry, protocol: TimingProtocol, threads: int) -> _Round:
    """Latencies in ms and transfers of one round; everything it loaded is gone when it returns."""
    try:
        opened = BACKENDS[entry.backend].open(entry.source, batch_size=protocol.batch_size, threads=threads)
        with opened as runner:
            latencies_ms = time_runs(
                runner.run,
                warmup_s=protocol.warmup_s,
                duration_s=protocol.duration_s / protocol.rounds,
                min_runs=math.ceil(protocol.min_runs / protocol.rounds),
            )
            return latencies_ms, runner.transfer() if runner.transfer else None
    except Gate2StaticError:
        raise
    except Exception as failure:  # a network runs arbitrary operators
        reason = (str(failure).strip().splitlines() or [type(failure).__name__])[0]
        raise BenchError(
            f"{entry.name} failed on {entry.backend} at batch size {protocol.batch_size}: {reason}; "
            "check that it runs on such inputs"
        ) from failure


def _summed_up(entry: Entry, rounds: Sequence[_Round]) -> TargetLatency:
    transfers = [transfer for _, transfer in rounds if transfer is not None]
    return TargetLatency(
        name=entry.name,
        backend=entry.backend,
        precision=entry.precision,
        rounds_ms=tuple(latencies_ms for latencies_ms, _ in rounds),
        transfers=Transfers(
            upload_ms=median(transfer.upload_ms for transfer in transfers),
            download_ms=median(transfer.download_ms for transfer in transfers),
        )
        if transfers
        else None,
    )
