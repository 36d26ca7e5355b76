"""The demo's recipe over several seeds: does gated-static beat the shared network, at fewer MACs than separate ones?

Run:  python benchmarks/demo_seeds.py            (goes on where it was interrupted; about 4 minutes a seed on 2 cores)
Writes docs/digits.md, whatever the table says.
"""

import argparse
import statistics
from pathlib import Path

from gate2static.demo import bundled_recipe
from gate2static.recipe import load_recipe
from gate2static.train import sweep
from gate2static.train.results import RunResult

PAGE = Path(__file__).parent.parent / "docs" / "digits.md"


def main() -> None:
    """Train all seeds and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs") / "demo-seeds", help="where to train")
    arguments = parser.parse_args()
    results = []
    for seed in arguments.seeds:
        recipe = load_recipe(bundled_recipe(), [f"seed={seed}"])
        results.append(sweep(recipe, arguments.runs / f"seed-{seed}", resume=True))
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
    shared = statistics.mean(r.rows[names.index("shared")].delta_mtl for r in results)
    separate = statistics.mean(r.rows[names.index("separate")].macs for r in results)
    verdicts = []
    for position, name in enumerate(names):
        if results[0].rows[position].kind == "gated":
            delta = statistics.mean(r.rows[position].delta_mtl for r in results)
            macs = statistics.mean(r.rows[position].macs for r in results)
            verdicts.append(
                f"- `{name}`: Δ_MTL {100 * delta:+.2f} % against the shared network's {100 * shared:+.2f} %, "
                f"with {macs / separate:.2f} times the MACs of the separate networks."
            )
    return "\n".join(
        [
            "# The digits demo over several seeds",
            "",
            f"`python benchmarks/demo_seeds.py`, seeds {', '.join(map(str, seeds))}: mean ± standard deviation on",
            "the test split. Metrics and Δ_MTL (eq. 6) in %, MACs per image with heads. All rows are static networks.",
            "",
            *lines,
            "",
            *verdicts,
            "",
        ]
    )


def _spread(values: list[float], *, digits: int = 1, sign: str = "") -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{sign}.{digits}f} ± {deviation:.{digits}f}"


if __name__ == "__main__":
    main()
