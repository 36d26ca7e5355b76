"""The report of several runs that differ in their seeds: means and standard deviations, network by network."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean, stdev

from gate2static.errors import Gate2StaticError
from gate2static.report.content import Content, TableRow
from gate2static.report.takeaway import takeaway

_MAY_DIFFER = ("seed", "trained until")
_NUMBERS = (
    "delta_mtl_percent",
    "delta_i_percent",
    "eta_percent",
    "macs",
    "parameters",
    "latency_ms",
)


def over_seeds(runs: Sequence[Content], names: Sequence[str]) -> Content:
    """Returns one content for several runs: a row per network, with means and standard deviations.

    Pictures that belong to one training, such as learning curves and gates, are left out. A number that a
    run lacks has no mean.

    Args:
        runs: The contents of the runs, at least two.
        names: The names of the runs, for messages.

    Raises:
        Gate2StaticError: The runs differ in more than their seeds, or two have the same seed.
    """
    first = runs[0]
    for content, name in zip(runs, names, strict=True):
        if content.columns != first.columns:
            raise Gate2StaticError(
                f"{name} has other tasks or metrics than {names[0]}, so there is no mean of both; report them apart"
            )
        for label in (content.facts | first.facts).keys() - set(_MAY_DIFFER):
            if content.facts.get(label) != first.facts.get(label):
                raise Gate2StaticError(
                    f"{name} and {names[0]} differ in more than their seeds: {label} is {content.facts.get(label)} and "
                    f"{first.facts.get(label)}; report them apart"
                )
    seeds = [content.facts.get("seed", "?") for content in runs]
    if len(set(seeds)) < len(seeds):
        raise Gate2StaticError(f"the seeds of the runs are {', '.join(seeds)}; a seed counts once, so give each once")
    row_names = list(dict.fromkeys(row.name for content in runs for row in content.rows))
    all_rows = [row for content in runs for row in content.rows]
    rows = tuple(_mean_row(name, [row for row in all_rows if row.name == name]) for name in row_names)
    facts = {label: value for label, value in first.facts.items() if label not in _MAY_DIFFER}
    facts["seeds"] = ", ".join(seeds)
    return Content(
        title=f"{first.title}, {len(runs)} runs",
        columns=first.columns,
        rows=rows,
        takeaway=takeaway(rows, first.columns),
        facts=facts,
        latency_setting=first.latency_setting,
        cautions=_with_names([content.cautions for content in runs], names),
        missing=_with_names([content.missing for content in runs], names),
    )


def _mean_row(name: str, rows: Sequence[TableRow]) -> TableRow:
    """Returns the mean of one network's rows, with the standard deviations as its spread."""
    spread = _combined(name, rows, stdev) if len(rows) > 1 else None
    return replace(_combined(name, rows, mean), seeds=len(rows), spread=spread)


def _combined(name: str, rows: Sequence[TableRow], combine: Callable[[list[float]], float]) -> TableRow:
    def over(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return combine(known) if len(known) == len(rows) else None

    tasks = set.intersection(*(set(row.metrics or {}) for row in rows))
    others = set.intersection(*(set(row.latency_ratios) for row in rows))
    return TableRow(
        name=name,
        kind=rows[0].kind,
        metrics={task: combine([(row.metrics or {})[task] for row in rows]) for task in sorted(tasks)},
        latency_ratios={other: combine([row.latency_ratios[other] for row in rows]) for other in sorted(others)},
        **{number: over([getattr(row, number) for row in rows]) for number in _NUMBERS},  # type: ignore[arg-type]
    )


def _with_names(sentences: Sequence[Sequence[str]], names: Sequence[str]) -> tuple[str, ...]:
    """Returns all sentences, each one with the names of the runs that say it."""
    runs: dict[str, list[str]] = {}
    for of_run, name in zip(sentences, names, strict=True):
        for sentence in of_run:
            runs.setdefault(sentence, []).append(name)
    return tuple(f"{', '.join(of_sentence)}: {sentence}" for sentence, of_sentence in runs.items())
