"""The benchmark: latencies of several networks, measured in interleaved rounds."""

import math
from collections.abc import Mapping, Sequence
from statistics import median

import torch

from gate2static.arguments import MOST_THREADS, require_count, require_number
from gate2static.bench.backends import BACKENDS, Entry, pair_with_backends
from gate2static.bench.environment import describe_environment
from gate2static.bench.report import LatencyReport, TargetLatency, TimingProtocol, Transfers
from gate2static.bench.sources import NetworkOrFile, named_sources
from gate2static.bench.timing import time_runs
from gate2static.errors import BenchError, Gate2StaticError
from gate2static.progress import progress_bar


def benchmark(
    targets: Mapping[str, NetworkOrFile] | Sequence[NetworkOrFile],
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
    """Measures the latency of networks with trtexec's protocol, so that they can be compared.

    Each round loads, warms up, times and closes every network in turn, and each round starts with another network. So a
    slow spell of the machine affects all networks, and the idle thread pool of one network never disturbs another.

    Args:
        targets: The networks, in a list or by name: static networks, (module, inputs) pairs, static folders, `.onnx` or
            `.engine` files. The others are compared with the first one.
        backends: Names from `BACKENDS`. None selects torch for networks and folders, ONNX Runtime on the CPU for ONNX
            files, and an engine's own library.
        batch_size: Samples per run.
        rounds: The number of times that each network is loaded and timed.
        warmup_s: Seconds of warm-up per round.
        duration_s: Seconds of timed runs per network, over all rounds; 0.3 with 3 rounds is a quick look.
        min_runs: The least number of timed runs per network, over all rounds.
        threads: CPU threads; None uses torch's number.
        progress: Whether to show a bar on stderr, where stderr is a terminal.

    Raises:
        BenchError: Nothing can be timed, a backend is unknown, or a network fails while running.
        MissingDependencyError: A backend's library or GPU is missing.
    """
    for name, count in {"batch_size": batch_size, "rounds": rounds, "min_runs": min_runs}.items():
        require_count(count, name=name, error=BenchError)
    for name, seconds in {"warmup_s": warmup_s, "duration_s": duration_s}.items():
        require_number(seconds, name=name, least=0, error=BenchError)
    if threads is not None:
        require_count(threads, name="threads", most=MOST_THREADS, error=BenchError)
    if isinstance(backends, str):
        backends = [backends]
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
                # Each round starts one network later, so that no network always runs on a machine at rest.
                position = (turn + index) % len(entries)
                entry = entries[position]
                bar.update(task, description=f"timing {entry.name} on {entry.backend}")
                measured[position].append(_one_round(entry, protocol, threads))
                bar.advance(task)
    return LatencyReport(
        protocol=protocol,
        environment=describe_environment(threads=threads),
        targets=tuple(_summary(entry, entry_rounds) for entry, entry_rounds in zip(entries, measured, strict=True)),
    )


_Round = tuple[tuple[float, ...], Transfers | None]
"""The latencies of one round in ms, and the time of copies."""


def _one_round(entry: Entry, protocol: TimingProtocol, threads: int) -> _Round:
    """Times one round of a network, and frees everything that it loaded."""
    try:
        # Loaded anew in every round: memory layout and threads differ from load to load, and rounds average over that.
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


def _summary(entry: Entry, rounds: Sequence[_Round]) -> TargetLatency:
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
