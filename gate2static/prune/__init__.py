"""Pruning: a gated model becomes a static one."""

from gate2static.prune.barriers import BarrierCost, barrier_costs
from gate2static.prune.emission.layout import TARGETS, Layout
from gate2static.prune.macs import expected_macs
from gate2static.prune.plan import ChannelPlan, Plan
from gate2static.prune.pruning import apply, plan, prune
from gate2static.static.manifest import Manifest, TensorSpec
from gate2static.static.model import StaticModel, check_replaceable, load_static, read_manifest

__all__ = [
    "TARGETS",
    "BarrierCost",
    "ChannelPlan",
    "Layout",
    "Manifest",
    "Plan",
    "StaticModel",
    "TensorSpec",
    "apply",
    "barrier_costs",
    "check_replaceable",
    "expected_macs",
    "load_static",
    "plan",
    "prune",
    "read_manifest",
]
