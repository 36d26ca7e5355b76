"""Trains, prunes and times every network of a recipe's frontier, and writes the page.

    python -m benchmarks.frontier recipes/multi_fashion_resnet20.yaml --seeds 0 1 2 --page docs/frontier.md

Goes on where it was interrupted. Runs are kept under `runs/frontier/`, results under `benchmarks/results/frontier/`.
"""

import argparse
import fnmatch
import json
from dataclasses import asdict
from itertools import product
from pathlib import Path

import torch
from torch import nn

import gate2static as g2s
from benchmarks.frontier import networks
from benchmarks.frontier.networks import Candidate
from benchmarks.frontier.page import Result, write_page
from benchmarks.frontier.thinned import as_static, thinned
from gate2static.data import describe_data, load_data
from gate2static.recipe import Recipe, load_recipe
from gate2static.tasks import build_tasks, delta_mtl, main_scores
from gate2static.train import ResultRow, evaluate, gated_baseline, load_gated
from gate2static.train.loop.batches import evaluation_loader, loaded
from gate2static.train.runs import train_variants

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "frontier"
_TARGET = "ort-cpu"
_ROUNDS = 7


def train_seed(
    recipe: Recipe, seed: int, budgets: list[float], only: list[str], folder: Path
) -> dict[Candidate, ResultRow]:
    """Trains what is missing of one seed, and returns the row of every network."""
    wanted = [
        candidate
        for candidate in networks.candidates(recipe, seed, budgets)
        if candidate.name in ("separate", "shared") or any(fnmatch.fnmatch(candidate.name, glob) for glob in only)
    ]
    rows = {}
    for run in dict.fromkeys(candidate.folder for candidate in wanted):
        members = [candidate for candidate in wanted if candidate.folder == run]
        gated = {member.row: member.recipe for member in members if member.row.startswith("gated")}
        # A folder of gated networks alone is that of the paper's, which start from shorter trainings.
        base = next((m.recipe for m in members if m.row == "shared"), networks.early(wanted[0].recipe))
        is_begun = (folder / run / "run.json").exists() or any((folder / run).rglob("ckpt.pt"))
        result = train_variants(base, folder / run, gated, resume=is_begun, progress=True)
        by_name = {row.name: row for row in result.rows}
        rows |= {member: by_name[member.row] for member in members}
    return rows


def thin_seed(recipe: Recipe, seed: int, shares: list[float], only: list[str], folder: Path) -> dict[str, nn.Module]:
    """Thins the networks of the folder `early`, trains them on, and returns them by name."""
    base = networks.base(recipe, seed)
    splits = load_data(base.data, [task.name for task in base.tasks])
    found = {}
    for kind, criterion, share in product(("separate", "shared"), ("magnitude", "taylor"), shares):
        name = f"{kind} thinned to {share:g} by {criterion}"
        if any(fnmatch.fnmatch(name, glob) for glob in only):
            train_variants(networks.early(base), folder / "early", {}, resume=(folder / "early").exists())
            network = thinned(networks.late(base), folder / "early", kind, criterion, share, splits)
            found[name] = network
    return found


def results_of(
    recipe: Recipe, seed: int, rows: dict[Candidate, ResultRow], others: dict[str, nn.Module], folder: Path
) -> list[Result]:
    """Times all networks of a seed side by side, and returns what was measured."""
    tasks = build_tasks(recipe.tasks, describe_data(recipe.data))
    files = {candidate.name: _onnx(candidate, folder) for candidate in rows}
    metrics = {candidate.name: row.metrics for candidate, row in rows.items()}
    macs = {candidate.name: row.macs for candidate, row in rows.items()}
    families = {candidate.name: candidate.family for candidate in rows}
    if others:
        splits = load_data(recipe.data, [task.name for task in tasks])
        for name, network in others.items():
            static = as_static(network, splits.test[0][0][None].repeat(2, 1, 1, 1))
            files[name] = folder / f"{name}.onnx"
            g2s.export_onnx(static, files[name])
            loader = evaluation_loader(splits.test, recipe.training.shared.batch_size)
            metrics[name] = main_scores(evaluate(network, loaded(loader), tasks), tasks)
            macs[name] = static.manifest.macs["static"]
            families[name] = "thinned"
    report = g2s.benchmark(files, rounds=_ROUNDS, threads=1)
    reference = report.targets[0]  # `separate`, which is trained first
    ratios = {
        target.name: report.model_copy(update={"targets": (reference, target)}).ratio(target)
        for target in report.targets
    }
    return [
        Result(
            seed=seed,
            name=name,
            family=families[name],
            metrics=metrics[name],
            delta_mtl=delta_mtl(metrics[name], metrics["separate"], tasks),
            macs=macs[name] / macs["separate"],
            latency=ratios[name],
        )
        for name in files
    ]


def _onnx(candidate: Candidate, folder: Path) -> Path:
    """Returns the ONNX file of a trained network, as ONNX Runtime is to run it."""
    run = folder / candidate.folder
    path = run / f"{candidate.row}.onnx"
    if not path.exists():
        if candidate.row == "separate" or candidate.row == "shared":
            gated = gated_baseline(run, candidate.row)
        else:
            gated, _ = load_gated(run / candidate.row / "ckpt.pt")
        g2s.export_onnx(g2s.prune(gated, target=_TARGET), path)
    return path


def main() -> None:
    """Trains and times what is missing, and writes the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", nargs="*", default=[], help="changes to the recipe, as for `gate2static train`")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="none: the page alone")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.6], help="MACs, as shares of separate networks'")
    parser.add_argument("--thin", type=float, nargs="*", default=[0.5], help="shares of MACs to thin networks to")
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of names; the two baselines always run")
    parser.add_argument("--folder", type=Path, help="where runs are kept; runs/frontier/NAME by default")
    parser.add_argument("--page", type=Path, help="write a page of all results of this recipe there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(options.recipe, options.set)
    folder = options.folder or ROOT / "runs" / "frontier" / recipe.name
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{recipe.name}.json"
    for seed in options.seeds:
        seed_folder = folder / f"seed-{seed}"
        rows = train_seed(recipe, seed, options.budgets, options.only, seed_folder)
        others = thin_seed(recipe, seed, options.thin, options.only, seed_folder)
        found = results_of(recipe, seed, rows, others, seed_folder)
        stored = [Result(**entry) for entry in json.loads(path.read_text())["results"]] if path.exists() else []
        new = {result.name for result in found}
        stored = [result for result in stored if result.seed != seed or result.name not in new] + found
        settings = recipe.model_dump(mode="json")
        settings["data"]["options"].pop("root", None)  # where this machine has the files
        content = {"recipe": settings, "results": [asdict(result) for result in stored]}
        path.write_text(json.dumps(content, indent=1) + "\n")
    if options.page:
        write_page(options.page, recipe, [Result(**entry) for entry in json.loads(path.read_text())["results"]])


if __name__ == "__main__":
    main()
