"""The result table, for the page, the terminal and a README."""

from collections.abc import Callable

from rich.table import Table

from gate2static.report.content import Content, TableRow

_ABSENT = "–"


def header(content: Content) -> tuple[str, ...]:
    """Returns the column titles with units and, for metrics, an arrow in the better direction."""
    metrics = (f"{c.task}: {c.metric} {'↑' if c.higher_is_better else '↓'}" for c in content.columns)
    return (
        "network",
        *metrics,
        "Δ_MTL (%) ↑",
        "Δ_I (%) ↑",
        "η̂ (%) ↑",
        "MACs (M)",
        "parameters (k)",
        "latency (ms)",
        "latency / shared",
        "latency / separate",
        *(["cost / budget"] if _has_budgets(content) else []),
    )


def cells(content: Content, row: TableRow) -> tuple[str, ...]:
    """Returns a row's cells in the order of `header`; values that were not measured are a dash."""
    metrics = row.metrics or {}
    return (
        row.name,
        *(_number(metrics.get(column.task), lambda value: f"{value:#.4g}") for column in content.columns),
        _number(row.delta_mtl_percent, lambda value: f"{value:+.2f}"),
        _number(row.delta_i_percent, lambda value: f"{value:+.2f}"),
        _number(row.eta_percent, lambda value: f"{value:.0f}"),
        _number(row.macs, lambda value: f"{value / 1e6:.2f}"),
        _number(row.parameters, lambda value: f"{value / 1e3:.1f}"),
        _number(row.latency_ms, lambda value: f"{value:.3f}"),
        _number(row.latency_ratios.get("shared"), lambda value: f"{value:.2f}×"),
        _number(row.latency_ratios.get("separate"), lambda value: f"{value:.2f}×"),
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


def _has_budgets(content: Content) -> bool:
    return any(row.budget for row in content.rows)


def _number(value: float | None, write: Callable[[float], str]) -> str:
    return _ABSENT if value is None else write(value)
