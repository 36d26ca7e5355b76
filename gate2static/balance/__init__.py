"""Multi-task optimisation methods, at parameters and at features, and measures of conflict (Robust Analysis)."""

from gate2static.balance.balancing import Balance
from gate2static.balance.conflict_measures import Conflict
from gate2static.balance.measuring import conflict
from gate2static.balance.method import Method
from gate2static.balance.ranking import RankingSimilarity, ranking_similarity
from gate2static.balance.registry import METHODS, build_method
from gate2static.balance.setting_up import balance

__all__ = [
    "METHODS",
    "Balance",
    "Conflict",
    "Method",
    "RankingSimilarity",
    "balance",
    "build_method",
    "conflict",
    "ranking_similarity",
]
