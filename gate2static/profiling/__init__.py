"""Profiling: a latency table for this machine, measured from the kernels that networks consist of."""

from gate2static.profiling.kit import read_kit, write_kit
from gate2static.profiling.measuring import profile, profile_table
from gate2static.profiling.networks import profile_for, profile_gated

__all__ = ["profile", "profile_for", "profile_gated", "profile_table", "read_kit", "write_kit"]
