"""The whole road on real handwritten digits: every stage in turn, from a recipe to a page, skipping what is done."""

from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Literal

from gate2static.bench import benchmark
from gate2static.errors import MissingDependencyError, RecipeError
from gate2static.export import build_engine, export_onnx
from gate2static.gates import GatedModel
from gate2static.progress import progress_bar
from gate2static.prune import prune
from gate2static.recipe import load_recipe
from gate2static.report import WrittenReport, gated_checks, onnx_checks, record, was_verified, write_report
from gate2static.static import load_static
from gate2static.train import RunResult, gated_baseline, load_gated, sweep, train
from gate2static.train.results import Row
from gate2static.verify import verify

RECIPE = "digits_resnet20.yaml"


def bundled_recipe(name: str = RECIPE) -> Path:
    """Returns a recipe that came with the package: inside it in a wheel, beside it in a clone.

    Raises:
        RecipeError: there is none of that name.
    """
    package = Path(str(files("gate2static")))
    for folder in (package / "recipes", package.parent / "recipes"):
        if (folder / name).is_file():
            return folder / name
    raise RecipeError(f"no recipe {name} came with this installation; give `train` or `sweep` the path of a YAML file")


def run_demo(run_dir: Path, *, overrides: Sequence[str] = ()) -> WrittenReport:
    """Trains, prunes, verifies, exports and times every network of the bundled recipe, and writes the report.

    What an interrupted run has finished is not done again; a file older than what it was made from is.

    Args:
        run_dir: where everything goes (docs/design.md, "A run folder").
        overrides: `key.sub=value` for the recipe.

    Raises:
        VerificationError: a static network does not compute what its gated network computes.
        Gate2StaticError: a stage cannot do its work; its message says which and why.
    """
    recipe = load_recipe(bundled_recipe(), overrides)
    result = (sweep if recipe.budget is None else train)(recipe, run_dir, resume=True)
    _deliver(run_dir, result)
    _time(run_dir, result)
    return write_report(run_dir)


def _deliver(run_dir: Path, result: RunResult) -> None:
    """Takes every network from its checkpoint to an engine."""
    with progress_bar(visible=True) as bar:
        steps = bar.add_task("", total=4 * len(result.rows))
        for row in result.rows:
            folder = run_dir / row.name
            for verb, step in (
                ("prune", partial(_prune, run_dir, row)),
                ("verify", partial(_verify, run_dir, row)),
                ("export", partial(_export, folder)),
                ("build the engine", partial(_build, folder)),
            ):
                bar.update(steps, description=f"{row.name}: {verb}")
                try:
                    step()
                except MissingDependencyError as error:
                    bar.console.print(f"{row.name}: cannot {verb}: {error}", style="yellow", markup=False)
                bar.advance(steps)


def _prune(run_dir: Path, row: Row) -> None:
    checkpoints = [run_dir / checkpoint for checkpoint in row.checkpoints]
    if not _newer(run_dir / row.name / "static" / "graph.json", checkpoints):
        prune(_gated(run_dir, row)).save(run_dir / row.name / "static")


def _verify(run_dir: Path, row: Row) -> None:
    static_dir = run_dir / row.name / "static"
    static = load_static(static_dir)
    if not was_verified(static.manifest):
        found = verify(_gated(run_dir, row), static)
        record(static_dir, gated_checks(found))
        found.require()


def _export(folder: Path) -> None:
    if not _newer(folder / "model.onnx", [folder / "static" / "graph.json"]):
        exported = export_onnx(load_static(folder / "static"), folder / "model.onnx")
        record(folder / "static", onnx_checks(exported.errors, exported.tolerances))


def _build(folder: Path) -> None:
    if not _newer(folder / "model.trt-rtx.engine", [folder / "model.onnx"]):
        build_engine(folder / "model.onnx", folder / "model.trt-rtx.engine")


def _time(run_dir: Path, result: RunResult) -> None:
    """Times all networks side by side: the shared one first, which the others are compared with.

    On one thread, because networks this small gain nothing from a second one, which would only wait for the first.
    """
    names = sorted((row.name for row in result.rows), key=lambda name: name != "shared")
    models = {name: run_dir / name / "model.onnx" for name in names}
    if not _newer(run_dir / "latency.json", list(models.values())):
        benchmark(models, duration_s=2.0, threads=1).to_json(run_dir / "latency.json")


def _gated(run_dir: Path, row: Row) -> GatedModel:
    kind: Literal["separate", "shared", "gated"] = row.kind
    return load_gated(run_dir / row.checkpoints[0])[0] if kind == "gated" else gated_baseline(run_dir, kind)


def _newer(made: Path, sources: Sequence[Path]) -> bool:
    """Whether a file is there and was written after everything that it is made from."""
    return made.is_file() and all(made.stat().st_mtime >= source.stat().st_mtime for source in sources)
