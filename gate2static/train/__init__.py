"""Training: from a recipe to trained networks, their checkpoints and their metrics."""

from gate2static.train.evaluation import evaluate
from gate2static.train.loop.baselines import check_baselines
from gate2static.train.meaning import with_meaning
from gate2static.train.networks import gated_baseline, load_gated
from gate2static.train.projecting import Projected, project_checkpoint, trained_budget
from gate2static.train.results import ResultRow, RunResult, TaskInfo, load_result
from gate2static.train.runs import sweep, train
from gate2static.train.suggested_targets import suggest_for_run

__all__ = [
    "Projected",
    "ResultRow",
    "RunResult",
    "TaskInfo",
    "check_baselines",
    "evaluate",
    "gated_baseline",
    "load_gated",
    "load_result",
    "project_checkpoint",
    "suggest_for_run",
    "sweep",
    "train",
    "trained_budget",
    "with_meaning",
]
