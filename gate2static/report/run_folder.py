"""Reads a run folder for the report; parts that are missing become sentences and not errors."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from gate2static.bench import LatencyReport
from gate2static.report.checks import read_checks, was_verified
from gate2static.report.content import Content, TableRow, TaskColumn
from gate2static.report.figures.conflict import FILE as CONFLICT_FILE
from gate2static.report.figures.conflict import read_conflict
from gate2static.report.figures.curves import LearningCurves, read_curves
from gate2static.report.figures.gates import GatePattern
from gate2static.report.figures.predictions import FILE as PREDICTIONS_FILE
from gate2static.report.figures.predictions import Predictions, read_predictions
from gate2static.report.latency import main_targets, ratios, setting, slower_than_separate, timings
from gate2static.report.safety import against_single, safety_sentences
from gate2static.report.takeaway import takeaway
from gate2static.static import Manifest
from gate2static.static.folder import read_manifest
from gate2static.train.results import FILE as RESULT_FILE
from gate2static.train.results import ResultRow, RunResult, load_result

_ORDER = {"separate": 0, "shared": 1, "architecture": 2, "gated": 3}
_PICTURED = 3
"""The networks, beside the baselines, whose predictions are shown: those with the best Δ_MTL."""


def read_content(run_dir: Path) -> Content:
    """Reads the files that `train` or `sweep`, `prune`, `verify` and `bench` wrote into a run folder.

    Raises:
        CheckpointError: `run.json` is missing or not one of ours, or a log or a file of predictions is not.
        ArtefactError: A `manifest.json` is not one of ours.
        BenchError: `latency.json` is not one of ours.
    """
    result = load_result(run_dir)
    latency_file = run_dir / "latency.json"
    latency = LatencyReport.from_json(latency_file) if latency_file.is_file() else None
    manifests = {row.name: _manifest(run_dir / row.name / "static") for row in result.rows}
    conflict_files = {row.name: run_dir / row.name / CONFLICT_FILE for row in result.rows}
    ordered = sorted(result.rows, key=lambda row: (_ORDER[row.kind], row.sparsity_weight or 0.0))
    columns = tuple(
        TaskColumn(task=task.name, metric=task.metric, higher_is_better=task.higher_is_better) for task in result.tasks
    )
    rows = tuple(_row(row, columns, manifests[row.name], latency) for row in ordered)
    return Content(
        title=str(result.recipe.get("name", run_dir.name)),
        columns=columns,
        rows=rows,
        takeaway=takeaway(rows, columns),
        facts=_facts(run_dir, result.recipe),
        curves=_curves(run_dir, ordered, [task.name for task in result.tasks]),
        predictions=_predictions(run_dir, ordered),
        conflicts=tuple(read_conflict(path, name) for name, path in conflict_files.items() if path.is_file()),
        latency_setting=setting(latency) if latency else "",
        latencies=timings(latency) if latency else (),
        cautions=(*(slower_than_separate(latency) if latency else ()), *result.cautions()),
        missing=_missing(run_dir, result, manifests, latency),
    )


def _manifest(static_dir: Path) -> Manifest | None:
    return read_manifest(static_dir) if (static_dir / "manifest.json").is_file() else None


def _row(
    row: ResultRow, columns: Sequence[TaskColumn], manifest: Manifest | None, latency: LatencyReport | None
) -> TableRow:
    target = main_targets(latency).get(row.name) if latency else None
    return TableRow(
        name=row.name,
        kind=row.kind,
        metrics=row.metrics,
        delta_mtl_percent=None if row.delta_mtl is None else 100 * row.delta_mtl,
        delta_i_percent=None if row.delta_i is None else 100 * row.delta_i,
        eta_percent=None if row.eta is None else 100 * row.eta,
        macs=row.macs,
        parameters=row.parameters,
        latency_ms=target.median_ms if target else None,
        latency_ratios=ratios(latency, target) if latency and target else {},
        pattern=_pattern(manifest) if manifest and row.kind == "gated" else None,
        checks=read_checks(manifest) if manifest else (),
        budget=_budget(row),
        against_single=against_single(row, columns),
        safety=safety_sentences(row),
    )


def _facts(run_dir: Path, recipe: Mapping[str, Any]) -> dict[str, str]:
    """Returns what the run was, from its recipe; a recipe of another version may lack some of it."""
    facts = {}
    for label, *keys in (
        ("data", "data", "name"),
        ("network", "model", "name"),
        ("width", "model", "options", "width"),
        ("seed", "seed"),
        ("epochs of single-task networks", "training", "single", "epochs"),
        ("epochs of the shared network", "training", "shared", "epochs"),
        ("epochs of gated networks", "training", "gated", "epochs"),
        ("batch size", "training", "shared", "batch_size"),
    ):
        value: Any = recipe
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            facts[label] = str(value)
    trained = datetime.fromtimestamp((run_dir / RESULT_FILE).stat().st_mtime).astimezone()
    facts["trained until"] = trained.isoformat(sep=" ", timespec="minutes")
    return facts


def _curves(run_dir: Path, rows: Sequence[ResultRow], tasks: Sequence[str]) -> tuple[LearningCurves, ...]:
    curves = [read_curves(run_dir / row.name, row.name, tasks) for row in rows]
    return tuple(one for one in curves if one.curves)


def _predictions(run_dir: Path, rows: Sequence[ResultRow]) -> tuple[Predictions, ...]:
    """Returns the predictions of the baselines and of the best others, as far as files have them."""
    baselines = [row for row in rows if row.name in ("separate", "shared")]
    others = [row for row in rows if row not in baselines]
    by_gain = sorted(others, key=lambda row: -1e9 if row.delta_mtl is None else row.delta_mtl, reverse=True)
    shown = [*baselines, *by_gain[:_PICTURED]]
    files = {row.name: run_dir / row.name / PREDICTIONS_FILE for row in rows if row in shown}
    return tuple(read_predictions(path, name) for name, path in files.items() if path.is_file())


def _budget(row: ResultRow) -> str:
    """Returns the row's cost over budget and its final λ in words, such as `0.998 of 3.9 M MACs, λ 0.02`."""
    report = row.budget
    if report is None:
        return ""
    scale, unit = (1e6, "M MACs") if report.unit == "MACs" else (1.0, report.unit)
    parts = []
    for name, limit in report.limits.items():
        task = "" if name == "network" else f"{name} "
        parts.append(f"{task}{report.after[name] / limit:.3f} of {limit / scale:.4g} {unit}")
    if row.sparsity_weight is not None:  # gates that were not learned have none
        parts.append(f"λ {row.sparsity_weight:.3g}")
    return ", ".join(parts)


def _pattern(manifest: Manifest) -> GatePattern:
    """Summarises the gates per unit and task; units are in the order of data flow."""
    shares = {unit: _specific_shares(gates) for unit, gates in manifest.gates.items()}
    return GatePattern.of_units(manifest.tasks, shares, manifest.contributions)


def _specific_shares(gates: Sequence[str]) -> list[float]:
    """Returns each task's share of specific channels in a unit; its gates are a string of 0 and 1."""
    return [flags.count("1") / len(flags) for flags in gates]


def _missing(
    run_dir: Path, result: RunResult, manifests: dict[str, Manifest | None], latency: LatencyReport | None
) -> tuple[str, ...]:
    """Returns one sentence per missing part of the report, with the command that makes it."""
    sentences = [
        f"{name} is not pruned yet, so its gates and checks are not shown: run gate2static prune "
        f"{run_dir / name}{'' if name == 'separate' else '/ckpt.pt'} -o {run_dir / name / 'static'}"
        for name, manifest in manifests.items()
        if manifest is None
    ]
    sentences += [
        f"{name} is not verified yet: run gate2static verify --record "
        f"{run_dir / name}{'' if name == 'separate' else '/ckpt.pt'} {run_dir / name / 'static'}"
        for name, manifest in manifests.items()
        if manifest is not None and not was_verified(manifest)
    ]
    if latency is None:
        sentences.append(
            f"No latency is measured yet: run gate2static bench {run_dir}/*/static --json {run_dir / 'latency.json'}"
        )
    else:
        timed = main_targets(latency)
        sentences += [f"{row.name} has no latency in latency.json" for row in result.rows if row.name not in timed]
    if any(row.delta_mtl is None for row in result.rows):
        sentences.append("Δ_MTL is not defined: a metric of the separate networks is 0; train them longer, elsewhere")
    if not result.rows:
        sentences.append("No network is trained yet: run gate2static sweep RECIPE --resume")
    return tuple(sentences)
