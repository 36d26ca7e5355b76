"""Verification that the static network computes the same function as the gated network."""

from gate2static.verify.difference import Difference, difference
from gate2static.verify.equivalence import Check, EquivalenceReport, verify

__all__ = ["Check", "Difference", "EquivalenceReport", "difference", "verify"]
