"""Trains, prunes and times every network of a recipe's frontier, and writes the page.

    python -m benchmarks.frontier recipes/multi_fashion_resnet20.yaml --seeds 0 1 2 --page docs/frontier.md

Goes on where it was interrupted. Runs are kept under `runs/frontier/`, results under `benchmarks/results/frontier/`.
"""

import argparse
import fnmatch
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import gate2static as g2s
from benchmarks.frontier import networks
from benchmarks.frontier.networks import Candidate
from gate2static.data import describe_data
from gate2static.recipe import Recipe, load_recipe
from gate2static.tasks import build_tasks, delta_mtl
from gate2static.train import gated_baseline, load_gated
from gate2static.train.runs import train_variants

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "frontier"
_TARGET = "ort-cpu"
_ROUNDS = 7


@dataclass(frozen=True, kw_only=True)
class Result:
    """One trained network.

    Attributes:
        seed: The seed of its training.
        name: Its name in tables.
        family: How it was made.
        metrics: The main metric of each task on the test images.
        delta_mtl: Δ_MTL against the separate networks of the same seed and training, as a fraction.
        macs: MACs over those of the separate networks.
        latency: Latency over that of the separate networks, measured side by side; None before it is timed.
    """

    seed: int
    name: str
    family: str
    metrics: dict[str, float]
    delta_mtl: float
    macs: float
    latency: float | None = None


def train_seed(recipe: Recipe, seed: int, budgets: list[float], only: list[str], folder: Path) -> list[Result]:
    """Trains what is missing of one seed, and returns what there is."""
    wanted = [
        candidate
        for candidate in networks.candidates(recipe, seed, budgets)
        if candidate.name in ("separate", "shared") or any(fnmatch.fnmatch(candidate.name, glob) for glob in only)
    ]
    rows = []
    for run in dict.fromkeys(candidate.folder for candidate in wanted):
        members = [candidate for candidate in wanted if candidate.folder == run]
        gated = {candidate.row: candidate.recipe for candidate in members if candidate.row.startswith("gated")}
        base = (
            networks.early(wanted[0].recipe)
            if run == "early"
            else next((c.recipe for c in members if c.row in ("separate", "shared")), members[0].recipe)
        )
        result = train_variants(base, folder / run, gated, resume=(folder / run / "run.json").exists(), progress=False)
        by_name = {row.name: row for row in result.rows}
        rows += [(candidate, by_name[candidate.row]) for candidate in members]
    tasks = build_tasks(recipe.tasks, describe_data(recipe.data))
    separate = next(row for candidate, row in rows if candidate.name == "separate")
    return [
        Result(
            seed=seed,
            name=candidate.name,
            family=candidate.family,
            metrics=row.metrics,
            delta_mtl=delta_mtl(row.metrics, separate.metrics, tasks),
            macs=row.macs / separate.macs,
        )
        for candidate, row in rows
    ]


def _onnx(candidate: Candidate, folder: Path) -> Path:
    """Returns the ONNX file of a trained network, as ONNX Runtime is to run it."""
    run = folder / candidate.folder
    path = run / f"{candidate.row}.onnx"
    if not path.exists():
        gated = gated_baseline(run, candidate.row) if candidate.row in ("separate", "shared") else None
        if gated is None:
            gated, _ = load_gated(run / candidate.row / "ckpt.pt")
        g2s.export_onnx(g2s.prune(gated, target=_TARGET), path)
    return path


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", nargs="*", default=[], help="changes to the recipe, as for `gate2static train`")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.6])
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of names; the two baselines always run")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(options.recipe, options.set)
    folder = options.folder or ROOT / "runs" / "frontier" / recipe.name
    for seed in options.seeds:
        found = train_seed(recipe, seed, options.budgets, options.only, folder / f"seed-{seed}")
        (folder / f"seed-{seed}.json").write_text(json.dumps([asdict(result) for result in found], indent=1))
        for result in found:
            print(
                f"{seed} {result.name:32s} {100 * result.delta_mtl:+6.2f} % at {result.macs:.3f} MACs",
                result.metrics,
                flush=True,
            )


if __name__ == "__main__":
    _main()
