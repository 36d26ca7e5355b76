"""What a task is: its loss, its metric, which direction is better; and how whole sets of tasks compare."""

from gate2static.tasks.kinds import KINDS, Kind
from gate2static.tasks.scores import delta_mtl, mean_rank
from gate2static.tasks.task import Task, build_tasks

__all__ = ["KINDS", "Kind", "Task", "build_tasks", "delta_mtl", "mean_rank"]
