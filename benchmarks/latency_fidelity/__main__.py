"""How far fewer MACs become less time: writes pages such as docs/latency.md.

Run:  python -m benchmarks.latency_fidelity            (from the repository's root; less than an hour)
      python -m benchmarks.latency_fidelity --quick    (a few minutes)
      python -m benchmarks.latency_fidelity --shares 0.1 0.25 0.5 0.75 --seeds 3 --page docs/latency.md    (hours)
      python -m benchmarks.latency_fidelity --backend openvino --page docs/latency_runtimes.md
Allowed: see the page. Efficiency is the MACs over those of the shared network, divided by the latency over its
latency. All networks are made first. Then each takes turns, run by run, with the shared one and T separate ones, in one
process that is alone on the machine; a latency is the median over the turns of the ratio to the shared network's run of
the same turn, so that slow spells of the machine meet both.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks import DOCS, RESULTS, ROOT
from benchmarks.latency_fidelity.cases import (
    BASELINES,
    LAYOUTS,
    NETWORKS,
    REPEATED,
    Case,
    drawn,
    trained,
)
from benchmarks.latency_fidelity.making import THREADS, Maker
from benchmarks.latency_fidelity.page import write_page
from benchmarks.latency_fidelity.profiling import profile
from gate2static.bench.backends import BACKENDS
from gate2static.bench.environment import describe_environment
from gate2static.bench.sources import NetworkOrFile, TorchSource, named_sources
from gate2static.progress import progress_bar
from gate2static.static import load_static

_TURNS, _WARMUP_TURNS = 25, 2


def main() -> None:
    """Measure what is missing in the results and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--backend", choices=BACKENDS, default="onnxruntime", help="as in `gate2static bench`")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.25], metavar="P")
    parser.add_argument("--structures", type=int, default=3, help="how many of the gates' structures")
    parser.add_argument("--seeds", type=int, default=1, help=f"of {', '.join(REPEATED)}; the others have one")
    parser.add_argument("--lowerings", nargs="+", choices=["ours", *LAYOUTS], default=["plain", "ours"])
    parser.add_argument("--checkpoints", nargs="+", type=Path, default=[], help="of gated networks: trained gates")
    parser.add_argument("--quick", action="store_true", help="ResNet-18, one structure")
    parser.add_argument("--processes", type=int, default=2, help="how many networks are made at a time, not timed")
    parser.add_argument("--folder", type=Path, help="keep the networks there, to go on with or to time again")
    parser.add_argument(
        "--page", type=Path, default=ROOT / "runs" / "latency.md",
        help="beside it, or in benchmarks/results for a page of the documentation, the rows as .jsonl: delete to redo",
    )  # fmt: skip
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.networks, arguments.structures = ["resnet18"], 1
    torch.set_num_threads(THREADS)
    rows_file = rows_of(arguments.page)
    if arguments.page.is_file() and not rows_file.is_file():
        parser.error(
            f"{arguments.page} would lose its tables: their rows are not in {rows_file}; give another --page"
        )
    rows_file.parent.mkdir(exist_ok=True)
    results = read(rows_file)
    cases = [*drawn(arguments.networks, arguments.structures, arguments.shares, arguments.seeds)]
    cases += map(trained, arguments.checkpoints)
    wanted = {case: missing(case, arguments.lowerings, arguments.backend, results) for case in cases}
    wanted = {case: names for case, names in wanted.items() if names}
    with tempfile.TemporaryDirectory() as temporary, progress_bar(visible=True) as bar:
        folder = arguments.folder or Path(temporary)
        maker = Maker(folder=folder, backend=arguments.backend, processes=arguments.processes)
        maker.make(wanted, bar)
        task = bar.add_task("timing", total=len(wanted))
        for case, names in wanted.items():
            bar.update(task, description=f"timing {case}")
            results += kept(measure(case, names, maker), rows_file)
            bar.advance(task)
    write_page(arguments.page, results)


def rows_of(page: Path) -> Path:
    """Returns where the rows of a page are kept."""
    folder = RESULTS if page.resolve().is_relative_to(DOCS) else page.parent
    return folder / f"{page.stem}.jsonl"


def missing(case: Case, lowerings: Sequence[str], backend: str, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lowerings of a case that no row is of; of drawn gates the plainest is measured with the first seed."""
    key = {"network": case.network, "backend": backend, "threads": THREADS, **vars(case.gates)}
    done = {row["lowering"] for row in results if key.items() <= row.items()}
    with_plain = case.gates.seed == 0 or case.network not in NETWORKS
    return [name for name in lowerings if name not in done and (with_plain or name != "plain")]


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of earlier runs."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def kept(rows: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The rows, appended to a file."""
    with path.open("a") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    return rows


def measure(case: Case, lowerings: Sequence[str], maker: Maker) -> list[dict[str, Any]]:
    """One row a lowering: MACs and latency over those of the shared and of T separate networks."""
    backend, static = maker.backend, [*BASELINES, *lowerings]
    targets: dict[str, NetworkOrFile] = {name: maker.path(case, name) for name in static}
    if BACKENDS[backend].takes is TorchSource:
        targets["unpruned"] = (case.gated(), load_static(maker.path(case, "shared")).example_inputs(1))
    latencies, shared = times(targets, backend), maker.macs(case, "shared")

    def ratio(one: str, other: str) -> float:
        return float(np.median(latencies[one] / latencies[other]))

    return [
        {
            "network": case.network, "threads": THREADS, "machine": describe_environment(threads=THREADS).cpu,
            **vars(case.gates), "lowering": name, "backend": backend,
            "macs": (maker.macs(case, name).static if name in static else shared.gated) / shared.static,
            "latency": ratio(name, "shared"), "separate": ratio("separate", "shared"),
            "over_separate": ratio(name, "separate"),
            "profile_ms": profile(maker.path(case, name), THREADS) if backend == "onnxruntime" else {},
        }
        for name in targets if name not in BASELINES
    ]  # fmt: skip


def times(targets: Mapping[str, NetworkOrFile], backend: str) -> dict[str, np.ndarray]:
    """Latency in ms of each network at each turn."""
    with ExitStack() as loaded:
        runners = [
            loaded.enter_context(BACKENDS[backend].open(source, batch_size=1, threads=THREADS))
            for source in named_sources(targets).values()
        ]
        turns = [[median(runner.run()) for runner in runners] for _ in range(_WARMUP_TURNS + _TURNS)]
    return dict(zip(targets, np.array(turns[_WARMUP_TURNS:]).T, strict=True))


if __name__ == "__main__":
    main()
