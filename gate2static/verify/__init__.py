"""Verification that the static network computes the same function as the gated network."""

from gate2static.verify.difference import Difference, difference
from gate2static.verify.equivalence import Check, EquivalenceReport, refuse_fine_tuned, verify

__all__ = ["Check", "Difference", "EquivalenceReport", "difference", "refuse_fine_tuned", "verify"]
