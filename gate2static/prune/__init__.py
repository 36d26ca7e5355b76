"""Pruning: a gated model becomes a static one."""

from gate2static.prune.barriers import BarrierCost, barrier_costs
from gate2static.prune.emission.layout import TARGETS, Layout
from gate2static.prune.estimate import estimated_latency
from gate2static.prune.gate_summary import GateSummary, summary
from gate2static.prune.macs import expected_macs
from gate2static.prune.plan import ChannelPlan, Plan
from gate2static.prune.pruning import apply, plan, prune

__all__ = [
    "TARGETS",
    "BarrierCost",
    "ChannelPlan",
    "GateSummary",
    "Layout",
    "Plan",
    "apply",
    "barrier_costs",
    "estimated_latency",
    "expected_macs",
    "plan",
    "prune",
    "summary",
]
