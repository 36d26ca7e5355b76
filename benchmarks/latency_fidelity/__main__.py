"""How far fewer MACs become less time: writes pages such as docs/latency.md.

Run:  python -m benchmarks.latency_fidelity            (from the repository's root)
      python -m benchmarks.latency_fidelity --quick    (a few minutes)
      python -m benchmarks.latency_fidelity --backend openvino --page docs/latency_runtimes.md
Allowed: see the page. Efficiency is the MACs over those of the shared network, divided by the latency over its
latency. In one process, every network takes turns, run by run, with the shared one and T separate ones; a latency is
the median over the turns of the ratio to the shared network's run of the same turn, so that slow spells of the machine
meet both.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import gate2static as g2s
from benchmarks.latency_fidelity.cases import (
    LOWERINGS,
    NETWORKS,
    OURS,
    REPEATED,
    SHARES,
    Gates,
    draw,
    drawn,
    gated_network,
)
from benchmarks.latency_fidelity.page import write_page
from benchmarks.latency_fidelity.profiling import profile
from gate2static.bench.backends import BACKENDS
from gate2static.bench.environment import describe_environment
from gate2static.bench.sources import EngineSource, Target, TorchSource, named_sources
from gate2static.gates import GatedModel
from gate2static.train import load_gated

ROOT = Path(__file__).parents[2]
_TURNS, _WARMUP_TURNS = 25, 2
_THREADS = 1
"""Of backends on the CPU: with more, the idle pools of the networks that wait would disturb the one that runs."""
_BASELINES = {"shared": False, "separate": True}
"""Whether all gates are specific."""


def main() -> None:
    """Measure what is missing in the results and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--backend", choices=BACKENDS, default="onnxruntime", help="as in `gate2static bench`")
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES), metavar="P")
    parser.add_argument("--structures", type=int, default=3, help="how many of the gates' structures")
    parser.add_argument("--seeds", type=int, default=3, help=f"of {', '.join(REPEATED)}; the others have one")
    parser.add_argument("--lowerings", nargs="+", choices=["ours", *LOWERINGS], default=["plain", "ours"])
    parser.add_argument("--checkpoints", nargs="+", type=Path, default=[], help="of gated networks: trained gates")
    parser.add_argument("--quick", action="store_true", help="ResNet-18, one structure, one seed")
    parser.add_argument(
        "--page", type=Path, default=ROOT / "runs" / "latency.md", help="beside it, as .jsonl, the rows: delete to redo"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.networks, arguments.structures, arguments.seeds = ["resnet18"], 1, 1
    torch.set_num_threads(_THREADS)
    rows_file = arguments.page.with_suffix(".jsonl")
    if arguments.page.is_file() and not rows_file.is_file():
        parser.error(
            f"{arguments.page} would lose its tables: their rows are not in {rows_file.name}; give another --page"
        )
    rows_file.parent.mkdir(exist_ok=True)
    results = read(rows_file)
    cases = [
        (network, gates)
        for seed in range(arguments.seeds)
        for network in arguments.networks
        if seed == 0 or network in REPEATED
        for gates in drawn(arguments.structures, arguments.shares, seed)
    ]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(*columns, TextColumn("left"), TimeRemainingColumn()) as progress,
    ):
        bench = Bench(Path(folder), arguments.backend)
        bar = progress.add_task("", total=len(cases))
        for network, gates in cases:
            progress.update(bar, description=f"{network}, {gates.structure}, p = {gates.share}")
            case = {"network": network, "backend": arguments.backend, "threads": _THREADS, **vars(gates)}
            done = {r["lowering"] for r in results if case.items() <= r.items()}
            wanted = [n for n in arguments.lowerings if gates.seed == 0 or n != "plain"]
            if names := [n for n in wanted if n not in done]:
                results += kept(bench.measure(network, gates, names), rows_file)
            progress.advance(bar)
        for checkpoint in arguments.checkpoints:
            results += kept(bench.measure_trained(checkpoint, arguments.lowerings), rows_file)
    write_page(arguments.page, results)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of earlier runs."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def kept(rows: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The rows, appended to a file."""
    with path.open("a") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    return rows


class Bench:
    """Prunes and exports networks into a folder and times them; the two baselines of a backbone are made once.

    Args:
        folder: of the ONNX files.
        backend: a name of `gate2static bench`.
    """

    def __init__(self, folder: Path, backend: str) -> None:
        self.folder, self.backend = folder, backend
        self.takes = BACKENDS[backend].takes
        self.lowerings = {**LOWERINGS, "ours": OURS.get(backend, "any")}
        self.made: dict[str, Made] = {}

    def measure(self, network: str, gates: Gates, lowerings: list[str]) -> list[dict[str, Any]]:
        """One row a lowering: MACs and latency over those of the shared and of T separate networks."""
        return self._measure(gated_network(network, gates), network, gates, lowerings)

    def measure_trained(self, checkpoint: Path, lowerings: list[str]) -> list[dict[str, Any]]:
        """The same for the gates of a checkpoint; p is the share of them that is specific."""
        gated, recipe = load_gated(checkpoint)
        decisions = list(g2s.gate_decisions(gated).values())
        share = float(torch.cat([d.flatten() for d in decisions]).double().mean())
        how = recipe.gating
        gates = Gates(
            share=round(share, 2), group_size=how.group_size, mixing=how.mixing, tied=how.tie_residual, seed=recipe.seed
        )
        return self._measure(gated, str(checkpoint), gates, lowerings, trained=True)

    def _measure(
        self, gated: GatedModel, network: str, gates: Gates, lowerings: list[str], *, trained: bool = False
    ) -> list[dict[str, Any]]:
        own = g2s.gate_decisions(gated)
        if f"{network}-shared" not in self.made:
            for baseline, specific in _BASELINES.items():
                g2s.set_gates(gated, specific)
                self.made[f"{network}-{baseline}"] = self._make(gated, f"baseline-{len(self.made)}", "ours")
        chosen = {name: self.made[f"{network}-{name}"] for name in _BASELINES}
        if trained:
            g2s.set_gates(gated, own)
        else:
            draw(gated, gates)
        chosen |= {name: self._make(gated, f"drawn-{number}", name) for number, name in enumerate(lowerings)}
        timed: dict[str, Target] = {name: made.path for name, made in chosen.items()}
        if self.takes is TorchSource:
            timed = {name: made.static for name, made in chosen.items()}
            timed["unpruned"] = (gated, chosen["shared"].static.example_inputs(1))
        latencies = self._times(timed)
        return [self._row(name, latencies, network, gates, chosen) for name in timed if name not in _BASELINES]

    def _times(self, targets: Mapping[str, Target]) -> dict[str, np.ndarray]:
        """Latency in ms of each network at each turn."""
        with ExitStack() as loaded:
            runners = [
                loaded.enter_context(BACKENDS[self.backend].open(source, batch_size=1, threads=_THREADS))
                for source in named_sources(targets).values()
            ]
            turns = [[median(runner.run()) for runner in runners] for _ in range(_WARMUP_TURNS + _TURNS)]
        return dict(zip(targets, np.array(turns[_WARMUP_TURNS:]).T, strict=True))

    def _row(
        self, name: str, latencies: Mapping[str, np.ndarray], network: str, gates: Gates, chosen: Mapping[str, "Made"]
    ) -> dict[str, Any]:
        def ratio(one: str, other: str) -> float:
            return float(np.median(latencies[one] / latencies[other]))

        made, shared = chosen.get(name), chosen["shared"].static.manifest.macs
        return {
            "network": network, "size": chosen["shared"].static.manifest.inputs[0].shape[-1],
            "threads": _THREADS, "machine": describe_environment(threads=_THREADS).cpu, **vars(gates),
            "lowering": name, "backend": self.backend,
            "macs": (made.static.manifest.macs.static if made else shared.gated) / shared.static,
            "latency": ratio(name, "shared"),
            "separate": ratio("separate", "shared"), "over_separate": ratio(name, "separate"),
            "profile_ms": profile(made.path, _THREADS) if made and self.backend == "onnxruntime" else {},
        }  # fmt: skip

    def _make(self, gated: GatedModel, name: str, lowering: str) -> "Made":
        static = g2s.prune(gated, target=self.lowerings[lowering])
        path = self.folder / f"{name}.onnx"
        if self.takes is not TorchSource:
            g2s.export_onnx(static, path)
        if self.takes is EngineSource:
            engine = path.with_suffix(".engine")
            g2s.build_engine(path, engine, backend=self.backend)
            path = engine
        return Made(static, path)


@dataclass(frozen=True)
class Made:
    """A static network and its file, where the backend reads one."""

    static: g2s.StaticModel
    path: Path


if __name__ == "__main__":
    main()
