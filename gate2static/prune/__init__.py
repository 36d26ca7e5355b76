"""Pruning: a gated model becomes a static one."""

from gate2static.prune.analysis.barriers import BarrierCost, barrier_costs
from gate2static.prune.analysis.macs import expected_macs
from gate2static.prune.emission.emit import Plan, plan
from gate2static.prune.emission.layout import TARGETS, Lowering, lowerings_for
from gate2static.prune.pruning import prune
from gate2static.static.manifest import Manifest, TensorSpec
from gate2static.static.model import StaticModel, check_replaceable, load_static, read_manifest

__all__ = [
    "TARGETS",
    "BarrierCost",
    "Lowering",
    "Manifest",
    "Plan",
    "StaticModel",
    "TensorSpec",
    "barrier_costs",
    "check_replaceable",
    "expected_macs",
    "load_static",
    "lowerings_for",
    "plan",
    "prune",
    "read_manifest",
]
