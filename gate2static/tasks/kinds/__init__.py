"""The kinds of task: loss, metrics and valid labels, one kind per file."""

from gate2static.tasks.kinds.registry import KINDS

__all__ = ["KINDS"]
