"""Tasks: the loss and the metrics of each kind, and the comparison of whole sets of tasks."""

from gate2static.tasks.blocks import Blocks, Measured
from gate2static.tasks.kind import Kind
from gate2static.tasks.kinds import KINDS
from gate2static.tasks.metrics import TaskMetrics
from gate2static.tasks.paired import PairedTest, Replicates, paired_tests
from gate2static.tasks.safety import delta_i, eta, relative_gains
from gate2static.tasks.scores import delta_mtl, main_scores, mean_rank, relative_gain
from gate2static.tasks.suggest import Suggestion, suggest_targets
from gate2static.tasks.task import Task, build_tasks

__all__ = [
    "KINDS",
    "Blocks",
    "Kind",
    "Measured",
    "PairedTest",
    "Replicates",
    "Suggestion",
    "Task",
    "TaskMetrics",
    "build_tasks",
    "delta_i",
    "delta_mtl",
    "eta",
    "main_scores",
    "mean_rank",
    "paired_tests",
    "relative_gain",
    "relative_gains",
    "suggest_targets",
]
