"""The table of `gate2static suggest-targets`."""

from collections.abc import Mapping

from rich.table import Table

from gate2static.tasks import Suggestion


def targets_table(suggestions: Mapping[str, Suggestion]) -> Table:
    """Returns a table with one row per task: its loss by sharing, whether it overshares, and its target."""
    table = Table("task", "drop by sharing (%)", "fills the shared branch and loses", "target")
    for task, suggestion in suggestions.items():
        overshares = "yes: try more" if suggestion.overshares else "no"
        table.add_row(task, f"{100 * suggestion.drop:+.2f}", overshares, f"{suggestion.target:g}")
    return table
