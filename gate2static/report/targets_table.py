"""Suggested targets as a table."""

from collections.abc import Mapping

from rich.table import Table

from gate2static.tasks import Suggestion


def targets_table(suggestions: Mapping[str, Suggestion]) -> Table:
    """A row a task: what it loses by sharing, whether it shares too much, and the target to start from."""
    table = Table("task", "drop by sharing (%)", "fills the shared branch and loses", "target")
    for task, found in suggestions.items():
        table.add_row(
            task, f"{100 * found.drop:+.2f}", "yes: try more" if found.overshares else "no", f"{found.target:g}"
        )
    return table
