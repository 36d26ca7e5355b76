"""The front of one or several searches: the points that no other point beats in all objectives."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gate2static.errors import SearchError
from gate2static.front.objectives import KINDS, Estimate, estimate, value_of
from gate2static.front.records import NetworkRecord, Objective, TaskMetric, load_search, load_trials

_CONDITION = re.compile(r"\s*([a-z_]+)\s*(<=|>=|<|>)\s*(-?[0-9.]+(?:e-?[0-9]+)?)\s*")


@dataclass(frozen=True, kw_only=True)
class Network:
    """A trained network of a point.

    Attributes:
        folder: The network's folder.
        record: Its results.
    """

    folder: Path
    record: NetworkRecord

    @property
    def checkpoint(self) -> Path:
        """The network's checkpoint."""
        return self.folder / Path(self.record.checkpoint).name


@dataclass(frozen=True, kw_only=True)
class Point:
    """A recipe that was tried, with one network per seed.

    Attributes:
        row: The name of its networks' rows.
        values: The values that differ from its search's recipe, by key.
        networks: The networks, in the order of their seeds.
        estimates: The objectives and costs that have a value, over the seeds.
        metrics: The main metric by task, over the seeds.
        on_front: Whether no other point is at least as good in every objective and better in one.
    """

    row: str
    values: dict[str, Any]
    networks: tuple[Network, ...]
    estimates: dict[Objective, Estimate]
    metrics: dict[str, Estimate]
    on_front: bool = False

    @property
    def words(self) -> str:
        """The values in words."""
        return _words(self.values)


@dataclass(frozen=True, kw_only=True)
class Front:
    """All points of the searches, the best first, and what they are compared by.

    Attributes:
        title: The searches' name.
        objectives: What a point may be good in.
        tasks: The tasks of the first search.
        points: All points, by the first objective, the best first.
        baseline: The shared networks as a point, one per seed and run.
        latency: How latencies came about, in words; empty without latencies.
        failed: The number of trials that failed.
        stopped: The recipe of every network that was stopped early, in words -> its epochs.
    """

    title: str
    objectives: tuple[Objective, ...]
    tasks: tuple[TaskMetric, ...]
    points: tuple[Point, ...]
    baseline: dict[Objective, Estimate]
    latency: str
    failed: int
    stopped: dict[str, int]

    @property
    def best(self) -> tuple[Point, ...]:
        """The points on the front."""
        return tuple(point for point in self.points if point.on_front)


def read_front(run_dirs: Sequence[Path]) -> Front:
    """Reads the trials of searches and finds their front.

    Trials with equal recipes are one point, whatever their seeds and searches.

    Args:
        run_dirs: Folders that `search` wrote, with the same objectives.

    Raises:
        SearchError: A folder holds no search, a file in it is not one of ours, the objectives differ, or no trial has
            ended yet.
    """
    infos = [load_search(run_dir) for run_dir in run_dirs]
    objectives = infos[0].objectives
    for run_dir, info in zip(run_dirs, infos, strict=True):
        if set(info.objectives) != set(objectives):
            raise SearchError(
                f"{run_dir} has the objectives {', '.join(info.objectives)}, and {run_dirs[0]} has "
                f"{', '.join(objectives)}; make a front of each"
            )
    values: dict[str, dict[str, Any]] = {}
    networks: dict[str, dict[int, Network]] = {}
    tasks: tuple[TaskMetric, ...] = ()
    failed = 0
    stopped: dict[str, tuple[str, int]] = {}
    for run_dir in run_dirs:
        for trial in load_trials(run_dir):
            failed += bool(trial.error)
            if trial.stopped_after:
                stopped[trial.row] = (_words(trial.point), trial.stopped_after)
            tasks = tasks or trial.tasks
            for record in trial.networks:
                folder = run_dir / record.run / Path(record.checkpoint).parent
                networks.setdefault(trial.row, {}).setdefault(record.seed, Network(folder=folder, record=record))
                values.setdefault(trial.row, trial.point)
    points = [_point(row, values[row], by_seed, tasks) for row, by_seed in networks.items()]
    points = [point for point in points if set(objectives) <= set(point.estimates)]
    if not points:
        raise SearchError(f"{run_dirs[0]}: no trial has ended with a result yet; {failed} failed")
    return Front(
        title=" and ".join(dict.fromkeys(info.name for info in infos)),
        objectives=objectives,
        tasks=tasks,
        points=_with_front(points, objectives),
        baseline=_shared([network.record for by_seed in networks.values() for network in by_seed.values()]),
        latency=" and ".join(dict.fromkeys(info.latency for info in infos if info.latency)),
        failed=failed,
        # The same recipe may come again, go on where it was stopped, and then pass.
        stopped={words: epochs for row, (words, epochs) in stopped.items() if row not in networks},
    )


def pick_network(front: Front, conditions: Sequence[str]) -> Network:
    """Returns the best network that meets conditions.

    Among the points that meet them, it is the one that is best in the first objective that no condition names; among
    its networks, the one whose seed is best in it.

    Args:
        front: The front.
        conditions: Bounds of means over seeds, such as `latency_ms<=8`. `macs` up to 1 is a share of separate
            networks', as for a budget, and absolute above. Δ_MTL and gains are fractions.

    Raises:
        SearchError: A condition cannot be read, or no point meets all of them.
    """
    bounds = [_condition(front, condition) for condition in conditions]
    named = {objective for objective, _, _ in bounds}
    wanted = next((objective for objective in front.objectives if objective not in named), front.objectives[0])
    fitting = [point for point in front.points if all(_meets(point, *bound) for bound in bounds)]
    if not fitting:
        objective = bounds[0][0]
        values = [point.estimates[objective].mean for point in front.points]
        raise SearchError(
            f"no network has {' and '.join(conditions)}; {objective} of the {len(front.points)} points is "
            f"{min(values):.4g} to {max(values):.4g}"
        )
    sign = 1 if KINDS[wanted].higher_is_better else -1
    best = max(fitting, key=lambda point: sign * point.estimates[wanted].mean)
    return max(best.networks, key=lambda network: sign * (value_of(network.record, wanted) or 0.0))


def as_json(front: Front) -> dict[str, Any]:
    """Returns a front as plain values; fractions are fractions, and MACs a share of separate networks'."""
    return {
        "title": front.title,
        "objectives": {name: "max" if KINDS[name].higher_is_better else "min" for name in front.objectives},
        "latency": front.latency,
        "failed": front.failed,
        "stopped": front.stopped,
        "shared": _estimates(front.baseline),
        "points": [
            {
                "network": point.row,
                "on_front": point.on_front,
                "values": point.values,
                **_estimates(point.estimates),
                "metrics": _estimates(point.metrics),
                "networks": [
                    {"seed": network.record.seed, "folder": str(network.folder), **network.record.gated.model_dump()}
                    for network in point.networks
                ],
            }
            for point in front.points
        ],
    }


def _point(row: str, values: dict[str, Any], by_seed: dict[int, Network], tasks: Sequence[TaskMetric]) -> Point:
    networks = tuple(by_seed[seed] for seed in sorted(by_seed))
    records = tuple(network.record for network in networks)
    estimates = {objective: estimate(records, objective) for objective in KINDS}
    metrics = {
        task.name: Estimate.of([record.gated.metrics[task.name] for record in records])
        for task in tasks
        if all(task.name in record.gated.metrics for record in records)
    }
    return Point(
        row=row,
        values=values,
        networks=networks,
        estimates={objective: found for objective, found in estimates.items() if found is not None},
        metrics=metrics,
    )


def _with_front(points: Sequence[Point], objectives: Sequence[Objective]) -> tuple[Point, ...]:
    """Returns the points in order, the best in the first objective first, each with its place on the front or not."""
    signs = [-1 if KINDS[objective].higher_is_better else 1 for objective in objectives]

    def costs(point: Point) -> tuple[float, ...]:
        pairs = zip(signs, objectives, strict=True)
        return tuple(sign * point.estimates[objective].mean for sign, objective in pairs)

    ordered = sorted(points, key=lambda point: (costs(point), point.row))
    front: list[tuple[float, ...]] = []
    marked = []
    for point in ordered:
        here = costs(point)
        # In this order, only points before can beat this one; equal points are all on the front.
        beaten = any(other != here and all(o <= h for o, h in zip(other, here, strict=True)) for other in front)
        if not beaten:
            front.append(here)
        marked.append(replace(point, on_front=not beaten))
    return tuple(marked)


def _shared(records: Sequence[NetworkRecord]) -> dict[Objective, Estimate]:
    """Returns the shared networks' objectives, each network counted once."""
    distinct = {record.run: record for record in records}.values()
    of_objectives: dict[Objective, list[float]] = {
        "delta_mtl": [record.shared.delta_mtl for record in distinct if record.shared.delta_mtl is not None],
        "worst_task": [record.shared.worst_task for record in distinct if record.shared.worst_task is not None],
        "macs": [record.shared.macs / record.separate.macs for record in distinct if record.separate.macs],
    }
    return {objective: Estimate.of(values) for objective, values in of_objectives.items() if values}


def _condition(front: Front, text: str) -> tuple[Objective, str, float]:
    read = _CONDITION.fullmatch(text)
    known: list[Objective] = [name for name in KINDS if all(name in point.estimates for point in front.points)]
    objective = next((name for name in known if read is not None and name == read[1]), None)
    try:
        number = float(read[3]) if read is not None else None
    except ValueError:
        number = None
    if read is None or objective is None or number is None:
        raise SearchError(
            f"--pick {text!r}: expected a bound such as macs<=0.6 or latency_ms<=8; there are {', '.join(known)}"
        )
    return objective, read[2], number


def _meets(point: Point, objective: Objective, sign: str, bound: float) -> bool:
    mean = point.estimates[objective].mean
    if objective == "macs" and bound > 1:
        mean = Estimate.of([network.record.gated.macs for network in point.networks]).mean
    if sign in ("<=", "<"):
        return mean < bound or (sign == "<=" and mean == bound)
    return mean > bound or (sign == ">=" and mean == bound)


def _estimates(estimates: Mapping[Any, Estimate]) -> dict[str, dict[str, float | None]]:
    return {str(name): {"mean": found.mean, "std": found.std} for name, found in estimates.items()}


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_plain(value)}" for key, value in values.items())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
