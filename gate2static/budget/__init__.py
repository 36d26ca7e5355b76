"""Budgets that hold: λ_s is steered towards them in training, and the last gates are flipped to meet them."""

from gate2static.budget.controller import BudgetController
from gate2static.budget.meter import Measure, check_budget
from gate2static.budget.projection import BudgetReport, project_to_budget

__all__ = ["BudgetController", "BudgetReport", "Measure", "check_budget", "project_to_budget"]
