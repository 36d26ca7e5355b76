"""What the results of several seeds say: means, spreads, and whether a method differs from plain training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np

from benchmarks.methods.networks import MEASURES, SEPARATE, Result
from gate2static.balance import RankingSimilarity, ranking_similarity
from gate2static.tasks import Task, delta_mtl

DELTA = "Δ_MTL (%)"
_LOWER_IS_BETTER = ("rmse", "error", "merr", "median", "ece")
"""Parts of the names of metrics of which less is better."""
_LATE = 0.5
"""The share of the measured steps, from the end, whose mean conflict ranks methods (at most 50, as in the paper)."""
_MOST_LATE = 50


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All seeds of one network.

    Attributes:
        name: The network's name.
        values: Score -> its value by seed. A score is Δ_MTL in per cent, `<task> <metric>`, or a measure of conflict.
        failed: The number of seeds whose training failed.
        scale: The mean length of its directions over that of plain training; None where unknown.
    """

    name: str
    values: Mapping[str, Mapping[int, float]]
    failed: int
    scale: float | None

    @property
    def trained(self) -> int:
        """The number of seeds, those that failed among them."""
        return self.count(DELTA) + self.failed

    def mean(self, score: str) -> float:
        """Returns the mean over seeds; NaN without any."""
        values = list(self.values.get(score, {}).values())
        return mean(values) if values else math.nan

    def spread(self, score: str) -> float:
        """Returns the standard deviation over seeds; NaN for fewer than two."""
        values = list(self.values.get(score, {}).values())
        return stdev(values) if len(values) > 1 else math.nan

    def count(self, score: str) -> int:
        """Returns the number of seeds."""
        return len(self.values.get(score, {}))


def summarise(results: Sequence[Result], tasks: Sequence[Task]) -> dict[str, Summary]:
    """Returns the summary of every network, by name.

    Args:
        results: The results.
        tasks: The tasks, for Δ_MTL.
    """
    separate = {result.seed: result.metrics for result in results if result.name == SEPARATE}
    summaries = {}
    for name in dict.fromkeys(result.name for result in results if result.name != SEPARATE):
        members = [result for result in results if result.name == name]
        values: dict[str, dict[int, float]] = {}
        for result in members:
            for score, value in _scores(result, separate[result.seed], tasks).items():
                values.setdefault(score, {})[result.seed] = value
        scales = [result.scale for result in members if result.scale is not None]
        summaries[name] = Summary(
            name=name,
            values=values,
            failed=sum(bool(result.failed) for result in members),
            scale=mean(scales) if scales else None,
        )
    return summaries


def _scores(result: Result, separate: dict[str, dict[str, float]], tasks: Sequence[Task]) -> dict[str, float]:
    if result.failed:
        return {}
    main = {task.name: result.metrics[task.name][task.kind.metric_name] for task in tasks}
    baseline = {task.name: separate[task.name][task.kind.metric_name] for task in tasks}
    scores = {DELTA: 100 * delta_mtl(main, baseline, tasks)}
    for task in tasks:
        scores |= {score_name(task.name, metric): value for metric, value in result.metrics[task.name].items()}
    for measure in MEASURES:
        if curve := result.curves.get(measure):
            late = curve[-min(_MOST_LATE, max(1, round(_LATE * len(curve)))) :]
            scores[measure] = mean(late)
    return scores


def score_name(task: str, metric: str) -> str:
    """Returns the name of a task's metric in tables."""
    return f"{task} {metric}"


def higher_is_better(score: str) -> bool:
    """Returns whether more of a score is better."""
    return not any(part in score.lower().rpartition(" ")[2] for part in _LOWER_IS_BETTER)


def differs(method: Summary, plain: Summary, score: str) -> bool:
    """Returns whether a method's mean is more than two standard errors of the difference away from plain training's."""
    error = standard_error(method, plain, score, floor=plain.spread(score))
    return abs(method.mean(score) - plain.mean(score)) > 2 * error


def standard_error(method: Summary, other: Summary, score: str, *, floor: float) -> float:
    """Returns the standard error of the difference of two means over seeds.

    A few seeds may lie close together by chance, so a spread counts as the noise floor at least.

    Args:
        method: One network.
        other: The other one.
        score: The score to compare.
        floor: The standard deviation of plain training over seeds.
    """
    variances = 0.0
    for summary in (method, other):
        spread = np.nanmax([summary.spread(score), floor])
        variances += spread**2 / summary.count(score)
    return math.sqrt(variances)


def is_better(method: Summary, other: Summary, score: str) -> bool:
    """Returns whether a method's mean is the better one."""
    sign = 1 if higher_is_better(score) else -1
    return sign * (method.mean(score) - other.mean(score)) > 0


def rank(name: str, among: Sequence[Summary], score: str) -> int:
    """Returns a network's place among some by one score; 1 is the best."""
    (own,) = (summary for summary in among if summary.name == name)
    return 1 + sum(is_better(other, own, score) for other in among if other is not own)


def similarities(summaries: Sequence[Summary], scores: Sequence[str]) -> dict[tuple[str, str], RankingSimilarity]:
    """Returns how alike networks rank by a measure of conflict and by a score: (measure, score) -> similarity.

    Scores of which less is better are turned round, so that 1 says: the higher the measure, the better.
    """
    found = {}
    for measure in MEASURES:
        for score in scores:
            sign = 1 if higher_is_better(score) else -1
            both = [s for s in summaries if s.count(measure) and s.count(score)]
            if len(both) > 2:
                first = [summary.mean(measure) for summary in both]
                second = [sign * summary.mean(score) for summary in both]
                found[measure, score] = ranking_similarity(first, second)
    return found
