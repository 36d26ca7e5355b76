"""How far fewer MACs become less time: writes docs/latency.md.

Run:  python -m benchmarks.latency_fidelity            (from the repository's root)
      python -m benchmarks.latency_fidelity --quick    (a few minutes)
Allowed: see the page. Efficiency is the MACs over those of the shared network, divided by the latency over its
latency. Every network is timed beside the shared one and T separate ones, in rounds in one process.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import gate2static as g2s
from benchmarks.latency_fidelity.cases import LOWERINGS, NETWORKS, SHARES, SIZE, Gates, draw, drawn, gated_network
from benchmarks.latency_fidelity.page import write_page
from benchmarks.latency_fidelity.profiling import profile
from gate2static.gates import GatedModel

ROOT = Path(__file__).parents[2]
_ROUNDS, _DURATION_S = 5, 2.0


def main() -> None:
    """Measure what is missing in the results and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--backends", nargs="+", default=["onnxruntime"], help="as in `gate2static bench`")
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES), metavar="P")
    parser.add_argument("--structures", type=int, default=6, help="how many of the gates' structures")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lowerings", nargs="+", choices=LOWERINGS, default=["plain", "ours"])
    parser.add_argument("--threads", type=int, default=1, help="one is the steadiest on a machine that does other work")
    parser.add_argument("--quick", action="store_true", help="ResNet-18, one structure, one seed")
    parser.add_argument("--results", type=Path, default=ROOT / "runs" / "latency_fidelity.jsonl")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "latency.md")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.networks, arguments.structures, arguments.seeds = ["resnet18"], 1, 1
    torch.set_num_threads(arguments.threads)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    results = read(arguments.results)
    cases = [
        (n, g)
        for n in arguments.networks
        for g in drawn(arguments.structures, tuple(arguments.shares), arguments.seeds)
    ]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(*columns, TextColumn("left"), TimeRemainingColumn()) as progress,
    ):
        bench = Bench(Path(folder), arguments.backends, arguments.threads)
        bar = progress.add_task("", total=len(cases))
        for network, gates in cases:
            progress.update(bar, description=f"{network}, {gates.structure}, p = {gates.share}")
            done = {(r["backend"], r["lowering"]) for r in results if _is_of(r, network, gates, arguments.threads)}
            names = [n for n in arguments.lowerings if any((b, n) not in done for b in arguments.backends)]
            if names:
                rows = bench.measure(network, gates, names)
                results += rows
                with arguments.results.open("a") as lines:
                    lines.writelines(json.dumps(row) + "\n" for row in rows)
            progress.advance(bar)
    write_page(arguments.page, results)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of earlier runs."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


class Bench:
    """Exports networks into a folder and times them; the two baselines of a backbone are exported once.

    Args:
        folder: of the ONNX files.
        backends: names of `gate2static bench`.
        threads: of the backends on the CPU.
    """

    def __init__(self, folder: Path, backends: list[str], threads: int) -> None:
        self.folder, self.backends, self.threads = folder, backends, threads
        self.exported: dict[str, tuple[Path, int]] = {}

    def measure(self, network: str, gates: Gates, lowerings: list[str]) -> list[dict[str, Any]]:
        """One row a lowering and backend: MACs and latency over those of the shared and of T separate networks."""
        gated = gated_network(network, gates)
        for baseline, specific in (("shared", False), ("separate", True)):
            if f"{network}-{baseline}" not in self.exported:
                g2s.set_gates(gated, specific)
                self.exported[f"{network}-{baseline}"] = self._export(gated, f"{network}-{baseline}", "ours")
        chosen = {name: self.exported[f"{network}-{name}"] for name in ("shared", "separate")}
        draw(gated, gates)
        for name in lowerings:
            chosen[name] = self._export(gated, "drawn-" + name.replace(" ", "-"), name)
        report = g2s.benchmark(
            {name: path for name, (path, _) in chosen.items()},
            backends=self.backends,
            rounds=_ROUNDS,
            duration_s=_DURATION_S,
            threads=self.threads,
            progress=False,
        )
        rows = []
        for target in (t for t in report.targets if t.name in lowerings):
            separate = next(t for t in report.targets if (t.name, t.backend) == ("separate", target.backend))
            path, macs = chosen[target.name]
            rows.append(
                {
                    "network": network, "size": SIZE, "threads": self.threads, **vars(gates),
                    "lowering": target.name, "backend": target.backend,
                    "macs": macs / chosen["shared"][1], "latency": report.ratio(target),
                    "separate": report.ratio(separate), "over_separate": report.ratio(target, separate),
                    "profile_ms": profile(path, self.threads),
                }
            )  # fmt: skip
        return rows

    def _export(self, gated: GatedModel, name: str, lowering: str) -> tuple[Path, int]:
        """The file and the MACs."""
        static = g2s.prune(gated, target=LOWERINGS[lowering])
        path = self.folder / f"{name}.onnx"
        g2s.export_onnx(static, path)
        return path, static.manifest.macs["static"]


def _is_of(row: dict[str, Any], network: str, gates: Gates, threads: int) -> bool:
    return row["network"] == network and row["threads"] == threads and vars(gates).items() <= row.items()


if __name__ == "__main__":
    main()
