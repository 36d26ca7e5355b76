"""Budgets: training steers λ_s towards one, the projection flips the last gates, and tasks are grouped for one."""

from gate2static.budget.branching import BranchingSearch, TaskTree, search_branching
from gate2static.budget.controller import BudgetController
from gate2static.budget.freezing import freeze_gates
from gate2static.budget.meter import Measure, check_budget
from gate2static.budget.projection import BudgetReport, project_to_budget
from gate2static.budget.saliency import decide_by_saliency

__all__ = [
    "BranchingSearch",
    "BudgetController",
    "BudgetReport",
    "Measure",
    "TaskTree",
    "check_budget",
    "decide_by_saliency",
    "freeze_gates",
    "project_to_budget",
    "search_branching",
]
