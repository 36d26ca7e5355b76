"""The demo's recipe over several seeds: does gated-static beat the shared network, at fewer MACs than separate ones?

Run:  python -m benchmarks.evidence.digits     (goes on where it was interrupted; about 7 minutes a seed on 2 cores)
Writes docs/digits.md, whatever the table says.
"""

import argparse
import statistics
from pathlib import Path

from benchmarks import DOCS
from benchmarks.evidence.control import NAME, longer_separate
from gate2static.data import describe_data
from gate2static.demo import bundled_recipe
from gate2static.recipe import load_recipe
from gate2static.tasks import build_tasks, delta_mtl
from gate2static.train import RunResult, sweep

PAGE = DOCS / "digits.md"


def main() -> None:
    """Train all seeds and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs") / "demo-seeds", help="where to train")
    arguments = parser.parse_args()
    results = []
    for seed in arguments.seeds:
        recipe = load_recipe(bundled_recipe(), [f"seed={seed}"])
        result = sweep(recipe, arguments.runs / f"seed-{seed}", resume=True)
        control = longer_separate(recipe, arguments.runs / f"seed-{seed}-longer")
        tasks = build_tasks(recipe.tasks, describe_data(recipe.data))
        control = control.model_copy(update={"delta_mtl": delta_mtl(control.metrics, result.rows[0].metrics, tasks)})
        results.append(result.model_copy(update={"rows": (result.rows[0], control, *result.rows[1:])}))
    PAGE.write_text(_page(results, arguments.seeds))
    print(PAGE.read_text())


def _page(results: list[RunResult], seeds: list[int]) -> str:
    tasks = results[0].tasks
    names = [row.name for row in results[0].rows]
    head = ["network", *(f"{t.name} ({t.metric})" for t in tasks), "Δ_MTL", "MACs (M)", "parameters (k)"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for position, name in enumerate(names):
        rows = [result.rows[position] for result in results]
        cells = [name, *(_spread([100 * r.metrics[t.name] for r in rows]) for t in tasks)]
        cells += [_spread([100 * r.delta_mtl for r in rows], sign="+"), _spread([r.macs / 1e6 for r in rows], digits=2)]
        cells.append(_spread([r.parameters / 1e3 for r in rows]))
        lines.append(f"| {' | '.join(cells)} |")
    mean = {name: statistics.mean(r.rows[i].delta_mtl for r in results) for i, name in enumerate(names)}
    macs = {name: statistics.mean(r.rows[i].macs for r in results) for i, name in enumerate(names)}
    training = load_recipe(bundled_recipe()).training
    single, further = training.single.epochs, training.gated.epochs
    gains = {name: f"{100 * value:+.2f} %" for name, value in mean.items()}
    verdicts = [
        f"- `{name}`: Δ_MTL {gains[name]}, with {macs[name] / macs['separate']:.2f} times the MACs of *separate*. "
        f"The shared network has {gains['shared']}."
        for name in names
        if name.startswith("gated")
    ]
    verdicts.append(
        f"- `{NAME}` is the fair comparison: separate networks of {single + further} epochs, Δ_MTL {gains[NAME]}. A "
        f"gated network starts from single-task networks of {single} epochs and trains for {further} more."
    )
    return "\n".join(
        [
            "# The digits demo over several seeds",
            "",
            "This page says how far the figures of `gate2static demo` vary with the seed, and what longer training of",
            "separate networks gives. Δ_MTL is the mean gain over *separate* in per cent ([glossary](glossary.md)).",
            "",
            *lines,
            "",
            *verdicts,
            "",
            f"Mean ± standard deviation over seeds {', '.join(map(str, seeds))}, on the test split. Metrics are in %,",
            "MACs per image with heads. All rows are static networks. Made by `python -m benchmarks.evidence.digits`.",
            "",
        ]
    )


def _spread(values: list[float], *, digits: int = 1, sign: str = "") -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{sign}.{digits}f} ± {deviation:.{digits}f}"


if __name__ == "__main__":
    main()
