"""Trains every architecture of a recipe over several seeds, times the static networks, and writes the page.

    python -m benchmarks.architectures benchmarks/architectures/scenes.yaml --page docs/architectures_results.md

Goes on where it was interrupted, and trains rows that the recipe has got since. Runs are kept under
`runs/architectures/`, results under `benchmarks/results/architectures/`.
"""

import argparse
import json
from operator import itemgetter
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

import gate2static as g2s
from benchmarks import RESULTS, ROOT
from gate2static.errors import Gate2StaticError
from gate2static.files import write_atomically
from gate2static.recipe import Recipe, load_recipe
from gate2static.train import RunResult, gated_baseline, load_gated, sweep
from gate2static.train.variants import gated_variants, shared_variants

_ROUNDS = 7
_TARGET = "ort-cpu"


def row_names(recipe: Recipe) -> set[str]:
    """Returns the names of the rows of a recipe's sweep."""
    labels = [wanted.label for wanted in recipe.architectures]
    return {"separate", "shared", *shared_variants(recipe), *gated_variants(recipe), *labels}


def latencies(run_dir: Path, result: RunResult) -> dict[str, float]:
    """Returns the latency of every row's static network over that of the separate networks, side by side."""
    files = {}
    for row in result.rows:
        path = run_dir / row.name / "model.onnx"
        if not path.exists():
            if row.name == "separate":
                gated = gated_baseline(run_dir, "separate")
            else:
                gated, _ = load_gated(run_dir / row.checkpoints[0])
            path.parent.mkdir(parents=True, exist_ok=True)
            g2s.export_onnx(g2s.prune(gated, target=_TARGET), path)
        files[row.name] = path
    report = g2s.benchmark(files, rounds=_ROUNDS, threads=1)
    reference = report.targets[0]  # `separate`, which is trained first
    return {t.name: report.model_copy(update={"targets": (reference, t)}).ratio(t) for t in report.targets}


def measure(run_dir: Path, result: RunResult, seed: int) -> list[dict[str, Any]]:
    """Returns one entry per network of a run."""
    of_row = latencies(run_dir, result)
    separate = result.rows[0]
    return [
        {
            "seed": seed,
            "name": row.name,
            "delta_mtl": row.delta_mtl,
            "delta_i": row.delta_i,
            "eta": row.eta,
            "macs": row.macs / separate.macs,
            "parameters": row.parameters / separate.parameters,
            "latency": of_row[row.name],
        }
        for row in result.rows
    ]


def write_page(path: Path, title: str, setting: str, entries: list[dict[str, Any]]) -> None:
    """Writes the table: means over seeds, with standard deviations where they matter."""
    names = list(dict.fromkeys(entry["name"] for entry in entries))
    seeds = sorted({entry["seed"] for entry in entries})
    by_name = {name: [entry for entry in entries if entry["name"] == name] for name in names}
    ordered = sorted(names, key=lambda name: -mean(entry["delta_mtl"] for entry in by_name[name]))
    lines = [
        "# Architectures: what was measured",
        "",
        f"## {title}",
        "",
        f"{setting} Seeds {', '.join(map(str, seeds))}; ± is the standard deviation over them. Δ_MTL and Δ_I are",
        "against the separate networks of the same seed; η̂ is the share of metrics that are no worse than theirs.",
        "MACs, parameters and latency (ONNX Runtime, one thread, interleaved rounds) are those of the static networks,",
        "over theirs.",
        "",
        "| network | Δ_MTL (%) ↑ | Δ_I (%) ↑ | η̂ (%) ↑ | MACs | parameters | latency |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in ordered:
        rows = by_name[name]
        cells = [_spread([100 * row[key] for row in rows], "+.2f") for key in ("delta_mtl", "delta_i")]
        cells.append(_spread([100 * row["eta"] for row in rows], ".0f"))
        cells += [f"{mean(row[key] for row in rows):.2f}" for key in ("macs", "parameters", "latency")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    path.write_text("\n".join([*lines, ""]))


def _spread(values: list[float], form: str) -> str:
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{mean(values):{form}} ± {deviation:{form.removeprefix('+')}}"


def main() -> None:
    """Trains and times what is missing, and writes the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", nargs="*", default=[], help="changes to the recipe, as for `gate2static train`")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, help="where runs are kept; runs/architectures/NAME by default")
    parser.add_argument("--results", type=Path, help="the file of results; benchmarks/results/architectures/NAME.json")
    parser.add_argument("--page", type=Path, help="write a page of all results of this recipe there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(options.recipe, options.set)
    folder = options.folder or ROOT / "runs" / "architectures" / recipe.name
    path = options.results or RESULTS / "architectures" / f"{recipe.name}.json"
    entries: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    for seed in options.seeds:
        # A seed is measured as a whole: latencies of rows are compared with one another.
        if row_names(recipe) <= {entry["name"] for entry in entries if entry["seed"] == seed}:
            continue
        run_dir = folder / f"seed-{seed}"
        result = sweep(recipe.model_copy(update={"seed": seed}), run_dir, resume=run_dir.exists())
        others = [entry for entry in entries if entry["seed"] != seed]
        entries = sorted([*others, *measure(run_dir, result, seed)], key=itemgetter("seed"))
        write_atomically(path, (json.dumps(entries, indent=1) + "\n").encode(), error=Gate2StaticError)
    if options.page:
        shared = recipe.training.shared
        images = recipe.data.options.get("train_images")
        names = f"`{recipe.model.name}` on `{recipe.data.name}`"
        setting = f"{names}: {shared.epochs} epochs of {images} images for every network."
        write_page(options.page, recipe.name, setting, entries)


if __name__ == "__main__":
    main()
