"""Does the method work on dense tasks? `scenes`, small ResNet-18: single-task, shared, gated; hinge against plain L1.

Run:  python -m benchmarks.evidence.dense_tasks        (goes on where it was interrupted; under 75 minutes on 2 cores)
Writes docs/evidence.md and its pictures (figures 2 and 3 of the paper, here), whatever they show.
"""

import argparse
import multiprocessing
import shutil
import statistics
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import DOCS, ROOT
from benchmarks.evidence.control import longer_separate
from gate2static.data import describe_data
from gate2static.errors import CheckpointError
from gate2static.gates import GatedModel
from gate2static.prune import prune
from gate2static.recipe import Recipe, load_recipe
from gate2static.report import write_report
from gate2static.report.figures.style import png_bytes
from gate2static.report.figures.trade_off import TradeOffPoint, tradeoff_figure
from gate2static.tasks import build_tasks, delta_mtl
from gate2static.train import ResultRow, RunResult, gated_baseline, load_gated, load_result, sweep

PAGE = DOCS / "evidence.md"
RECIPE = ROOT / "recipes" / "scenes_resnet18.yaml"
PENALTIES = {"hinge": "gated", "l1": "l1"}
"""Sparsity penalty -> kind of its points in the figure."""
CONTROL = "longer"
"""Folder of the separate networks that train for as long as the gated ones, which all others are compared with."""
_POLL_S = 2.0


def main() -> None:
    """Train what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs") / "evidence", help="where to train")
    parser.add_argument("--processes", type=int, default=2, help="one thread each")
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], metavar="KEY=VALUE", help="of the recipe")
    arguments = parser.parse_args()
    start = time.monotonic()
    train_all(arguments.runs, arguments.seeds, arguments.overrides, arguments.processes)
    minutes = (time.monotonic() - start) / 60
    results = {
        penalty: [compared(arguments.runs, seed, penalty, arguments.overrides) for seed in arguments.seeds]
        for penalty in PENALTIES
    }
    drawn = folder(arguments.runs, arguments.seeds[0], "hinge")
    shown = draw_gates(drawn, load_result(drawn))
    figure = tradeoff_figure(points(results), "MACs (millions per image)", "Scenes, mean over the seeds")
    PAGE.with_name("evidence_tradeoff.png").write_bytes(png_bytes(figure))
    PAGE.write_text(page(results, arguments.seeds, shown, arguments.overrides))
    print(f"{PAGE} ({minutes:.0f} minutes of training in this call)")


def folder(runs: Path, seed: int, penalty: str) -> Path:
    """Where one seed's networks of one penalty lie."""
    return runs / f"seed-{seed}-{penalty}"


def recipe_for(seed: int, penalty: str, overrides: list[str]) -> Recipe:
    """The recipe with this seed and penalty."""
    return load_recipe(RECIPE, [f"seed={seed}", f"training.gated.sparsity={penalty}", *overrides])


def train_all(runs: Path, seeds: list[int], overrides: list[str], processes: int) -> None:
    """Runs every sweep, L1 after the hinge's, whose single-task and shared networks it takes over."""
    recipe = recipe_for(seeds[0], "hinge", overrides)
    rows = len(seeds) * (len(PENALTIES) * (2 + len(recipe.sweep)) + 3)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    context = multiprocessing.get_context("spawn")
    with Progress(*columns) as progress, ProcessPoolExecutor(processes, mp_context=context) as pool:
        bar = progress.add_task("networks", total=rows, completed=_done(runs, seeds))
        jobs: list[Future[None]] = [pool.submit(_sweep, runs, seed, "hinge", overrides) for seed in seeds]
        later = dict(zip(seeds, jobs, strict=True))
        jobs += [pool.submit(_control, runs, seed, overrides) for seed in seeds]
        while later or not all(job.done() for job in jobs):
            for seed in [seed for seed, job in later.items() if job.done()]:
                later.pop(seed).result()
                jobs.append(pool.submit(_sweep, runs, seed, "l1", overrides))
            progress.update(bar, completed=_done(runs, seeds))
            time.sleep(_POLL_S)
        for job in jobs:
            job.result()
        progress.update(bar, completed=rows)


def _sweep(runs: Path, seed: int, penalty: str, overrides: list[str]) -> None:
    torch.set_num_threads(1)
    run_dir = folder(runs, seed, penalty)
    if penalty != "hinge":
        for baseline in ("separate", "shared"):
            if not (run_dir / baseline).exists():
                half = run_dir / f".{baseline}.tmp"
                shutil.copytree(folder(runs, seed, "hinge") / baseline, half, dirs_exist_ok=True)
                half.rename(run_dir / baseline)
    sweep(recipe_for(seed, penalty, overrides), run_dir, resume=True, progress=False)


def _control(runs: Path, seed: int, overrides: list[str]) -> None:
    torch.set_num_threads(1)
    longer_separate(recipe_for(seed, "hinge", overrides), folder(runs, seed, CONTROL))


def compared(runs: Path, seed: int, penalty: str, overrides: list[str]) -> RunResult:
    """A sweep's rows, whose separate networks are those that trained for as long as the others."""
    recipe, result = recipe_for(seed, penalty, overrides), load_result(folder(runs, seed, penalty))
    control = longer_separate(recipe_for(seed, "hinge", overrides), folder(runs, seed, CONTROL))
    tasks = build_tasks(recipe.tasks, describe_data(recipe.data))
    others = [
        row.model_copy(update={"delta_mtl": delta_mtl(row.metrics, control.metrics, tasks)}) for row in result.rows[1:]
    ]
    return result.model_copy(update={"rows": (control.model_copy(update={"name": "separate"}), *others)})


def _done(runs: Path, seeds: list[int]) -> int:
    """Networks, or sets of single-task ones, that are trained and measured."""
    count = 0
    for seed in seeds:
        for penalty in (*PENALTIES, CONTROL):
            try:
                count += len(load_result(folder(runs, seed, penalty)).rows)
            except CheckpointError:
                continue
    return count


def draw_gates(run_dir: Path, result: RunResult) -> ResultRow:
    """Figure 3 of the gated network in the middle of the sweep, which is returned."""
    gated = [row for row in result.rows if row.kind == "gated"]
    shown = gated[len(gated) // 2]
    for row in result.rows:
        static = run_dir / row.name / "static"
        if not static.exists():
            network = load_gated(run_dir / row.checkpoints[0])[0] if row.kind == "gated" else _baseline(run_dir, row)
            prune(network).save(static)
    write_report(run_dir)
    shutil.copy(run_dir / f"gates-{shown.name}.png", PAGE.with_name("evidence_gates.png"))
    return shown


def _baseline(run_dir: Path, row: ResultRow) -> GatedModel:
    return gated_baseline(run_dir, "separate" if row.kind == "separate" else "shared")


def points(results: dict[str, list[RunResult]]) -> list[TradeOffPoint]:
    """Every network's Δ_MTL and MACs, means over the seeds."""
    found = []
    for penalty, runs in results.items():
        for rows in zip(*(run.rows for run in runs), strict=True):
            if rows[0].kind != "gated" and penalty != "hinge":
                continue
            found.append(
                TradeOffPoint(
                    name="" if rows[0].sparsity_weight is None else f"{rows[0].sparsity_weight:g}",
                    kind=PENALTIES[penalty] if rows[0].kind == "gated" else rows[0].kind,
                    cost=statistics.mean(row.macs for row in rows) / 1e6,
                    delta_mtl_percent=100 * statistics.mean(row.delta_mtl for row in rows),
                )
            )
    return found


def page(results: dict[str, list[RunResult]], seeds: list[int], shown: ResultRow, overrides: list[str]) -> str:
    """The page: table, pictures, and in words whether the method does what it should."""
    tasks, training = results["hinge"][0].tasks, results["hinge"][0].recipe["training"]
    metrics = [f"{task.name}: {task.metric} {'↑' if task.higher_is_better else '↓'}" for task in tasks]
    titles = ["network", "penalty", *metrics, "Δ_MTL (%) ↑", "MACs (M)", "MACs / separate", "parameters (k)"]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    separate_macs = results["hinge"][0].rows[0].macs
    for penalty, runs in results.items():
        for rows in zip(*(run.rows for run in runs), strict=True):
            if rows[0].kind == "gated" or penalty == "hinge":
                cells = [rows[0].name, penalty if rows[0].kind == "gated" else "–"]
                cells += [_spread([row.metrics[task.name] for row in rows], ".3g") for task in tasks]
                cells += [_spread([100 * row.delta_mtl for row in rows], "+.2f")]
                cells += [_spread([row.macs / 1e6 for row in rows], ".2f")]
                cells += [f"{statistics.mean(row.macs for row in rows) / separate_macs:.2f}"]
                cells += [_spread([row.parameters / 1e3 for row in rows], ".1f")]
                lines.append(f"| {' | '.join(cells)} |")
    epochs = {kind: stage["epochs"] for kind, stage in training.items() if isinstance(stage, dict)}
    return _TEXT.format(
        recipe=" ".join([f"`recipes/{RECIPE.name}`", *(f"`--set {override}`" for override in overrides)]),
        **epochs,
        total=epochs["single"] + epochs["gated"],
        seeds=", ".join(map(str, seeds)),
        table="\n".join(lines),
        verdicts="\n".join(f"- {verdict}" for verdict in verdicts(results)),
        shown=shown.name,
        seed=seeds[0],
    )


def verdicts(results: dict[str, list[RunResult]]) -> list[str]:
    """What the figures say, whichever way they fall."""
    found = points(results)
    [separate], [shared] = ([point for point in found if point.kind == kind] for kind in ("separate", "shared"))
    hinge, plain = ([point for point in found if point.kind == kind] for kind in PENALTIES.values())
    gap = f"The shared network's Δ_MTL is {shared.delta_mtl_percent:+.2f} %"
    losing = shared.delta_mtl_percent < 0
    said = [f"{gap}: sharing everything {'loses' if losing else 'does not lose'} against separate networks here."]
    good = [p for p in hinge if p.delta_mtl_percent > shared.delta_mtl_percent and p.cost < separate.cost]
    said.append(
        f"{len(good)} of {len(hinge)} gated networks have a better Δ_MTL than the shared network and fewer MACs than "
        "separate networks."
    )
    better = [p for p in plain if not any(_dominates(q, p) for q in hinge)]
    said.append(
        f"Hinge against plain L1: {len(plain) - len(better)} of {len(plain)} networks of L1 are beaten by one of the "
        "hinge, which is no worse in Δ_MTL and MACs and better in one; "
        f"{sum(any(_dominates(q, p) for q in plain) for p in hinge)} of {len(hinge)} the other way round."
    )
    equal = [p.name for p, q in zip(hinge, plain, strict=True) if _figures(p) == _figures(q)]
    if equal:
        said.append(f"At λ = {', '.join(equal)} both are one network: the hinge is active all the time, which is L1.")
    return said


def _dominates(one: TradeOffPoint, other: TradeOffPoint) -> bool:
    better = one.cost <= other.cost and one.delta_mtl_percent >= other.delta_mtl_percent
    return better and _figures(one) != _figures(other)


def _figures(point: TradeOffPoint) -> tuple[float, float]:
    return point.cost, point.delta_mtl_percent


def _spread(values: list[float], form: str) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{form}} ± {deviation:{form.replace('+', '')}}"


_TEXT = """# Evidence on dense tasks

Is a partly shared network better than a shared one, and cheaper than separate ones, on dense tasks? And what does the
paper's hinge give over plain L1? Both are asked on rendered rooms, with networks that trained equally long.

{verdicts}

![Δ_MTL against MACs](evidence_tradeoff.png)

{table}

Mean ± standard deviation over seeds {seeds}, on the test split. Every row is a static network: *separate* is one
network per task, *shared* is one network for all tasks, *gated-λ* is a gated network, pruned. The penalty is the hinge
of eq. 4, or plain L1 in its place, as in table 6 of the paper. MACs are per image with heads.

*separate* trains for {total} epochs, and *shared* for {shared}. A gated network's own branches train for {gated}
epochs, after the {single} of the single-task networks that they start from. Its shared branch starts from *shared* and
trains for {gated} more. So a network with all gates closed is a shared one that trained for longer.

Made by `python -m benchmarks.evidence.dense_tasks` from {recipe}.

Where each task keeps channels of its own, and whose features the shared stream is made of, in `{shown}`, seed {seed}:

![Gate pattern](evidence_gates.png)
"""


if __name__ == "__main__":
    main()
