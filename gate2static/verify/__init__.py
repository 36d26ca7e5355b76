"""Verification: does the static network compute what the gated one computes?"""

from gate2static.verify.difference import Difference, difference
from gate2static.verify.equivalence import Check, EquivalenceReport, verify

__all__ = ["Check", "Difference", "EquivalenceReport", "difference", "verify"]
