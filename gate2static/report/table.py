"""The result table, for the page, the terminal and a README."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from gate2static.report.content import Content, TableRow

_ABSENT = "–"


@dataclass(frozen=True, kw_only=True)
class _Column:
    """A column of numbers.

    Attributes:
        title: The title with the unit, and for metrics an arrow in the better direction.
        value: Takes the column's number from a row, or from a row of standard deviations; None where there is none.
        form: The number's format, such as `+.2f`.
        unit: The text behind the number.
    """

    title: str
    value: Callable[[TableRow], float | None]
    form: str
    unit: str = ""

    def cell(self, row: TableRow) -> str:
        """Returns the row's number, with its standard deviation over seeds where there are several."""
        number = self.value(row)
        if number is None:
            return _ABSENT
        spread = None if row.spread is None else self.value(row.spread)
        deviation = "" if spread is None else f" ± {spread:{self.form.removeprefix('+')}}"
        return f"{number:{self.form}}{deviation}{self.unit}"


def _columns(content: Content) -> tuple[_Column, ...]:
    """Returns the columns, those first that decide what to deploy: they are what a narrow screen shows."""
    return (
        _Column(title="Δ_MTL (%) ↑", value=lambda row: row.delta_mtl_percent, form="+.2f"),
        _Column(title="latency / separate", value=lambda row: row.latency_ratios.get("separate"), form=".2f", unit="×"),
        *(
            _Column(
                title=f"{column.task}: {column.metric} {'↑' if column.higher_is_better else '↓'}",
                value=lambda row, task=column.task: (row.metrics or {}).get(task),  # type: ignore[misc]
                form="#.4g",
            )
            for column in content.columns
        ),
        _Column(title="Δ_I (%) ↑", value=lambda row: row.delta_i_percent, form="+.2f"),
        _Column(title="η̂ (%) ↑", value=lambda row: row.eta_percent, form=".0f"),
        _Column(title="MACs (M)", value=lambda row: _scaled(row.macs, 1e6), form=".2f"),
        _Column(title="parameters (k)", value=lambda row: _scaled(row.parameters, 1e3), form=".1f"),
        _Column(title="latency (ms)", value=lambda row: row.latency_ms, form=".3f"),
        _Column(title="latency / shared", value=lambda row: row.latency_ratios.get("shared"), form=".2f", unit="×"),
    )


def header(content: Content) -> tuple[str, ...]:
    """Returns the column titles with units and, for metrics, an arrow in the better direction."""
    return (
        "network",
        *(column.title for column in _columns(content)),
        *(["seeds"] if _has_seeds(content) else []),
        *(["cost / budget"] if _has_budgets(content) else []),
    )


def cells(content: Content, row: TableRow) -> tuple[str, ...]:
    """Returns a row's cells in the order of `header`; values that were not measured are a dash."""
    return (
        row.name,
        *(column.cell(row) for column in _columns(content)),
        *([str(row.seeds)] if _has_seeds(content) else []),
        *([row.budget or _ABSENT] if _has_budgets(content) else []),
    )


def rich_table(content: Content) -> Table:
    """Returns the table for a terminal, one column per network, because most runs have few networks and many tasks."""
    # Transposed: the columns of the page are the lines here.
    titles, *lines = zip(header(content), *(cells(content, row) for row in content.rows), strict=True)
    table = Table(title=content.title, caption=content.latency_setting or None)
    for index, title in enumerate(titles):
        table.add_column(title, justify="left" if index == 0 else "right")
    for line in lines:
        table.add_row(*line)
    return table


def markdown_table(content: Content) -> str:
    """Returns the table as GitHub-flavoured Markdown that ends with a newline."""
    titles = header(content)
    lines = [titles, ("---", *("---:" for _ in titles[1:])), *(cells(content, row) for row in content.rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def json_table(content: Content) -> dict[str, Any]:
    """Returns the report in numbers: the sentences and, for each network, what its row of the table says."""
    return {
        "title": content.title,
        "takeaway": content.takeaway,
        "facts": content.facts,
        "networks": [_json_row(row) for row in content.rows],
        "latency": content.latency_setting,
        "cautions": list(content.cautions),
        "missing": list(content.missing),
    }


def _json_row(row: TableRow) -> dict[str, Any]:
    values = {
        "name": row.name,
        "kind": row.kind,
        "metrics": row.metrics,
        "delta_mtl_percent": row.delta_mtl_percent,
        "delta_i_percent": row.delta_i_percent,
        "eta_percent": row.eta_percent,
        "macs": row.macs,
        "parameters": row.parameters,
        "latency_ms": row.latency_ms,
        "latency_ratios": row.latency_ratios,
        "verified": all(check.passed for check in row.checks) if row.checks else None,
    }
    if row.spread is not None:
        values |= {"seeds": row.seeds, "standard_deviations": _json_row(row.spread)}
    return values


def _has_budgets(content: Content) -> bool:
    return any(row.budget for row in content.rows)


def _has_seeds(content: Content) -> bool:
    return any(row.seeds > 1 for row in content.rows)


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit
