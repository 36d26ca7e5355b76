"""Measured latency of the units that networks are made of: a latency table for this machine."""

from gate2static.profiling.measuring import profile, profile_table
from gate2static.profiling.networks import profile_for, profile_gated

__all__ = ["profile", "profile_for", "profile_gated", "profile_table"]
