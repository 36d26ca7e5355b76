"""Emission: the planned channels become layers with sliced weights, in one graph."""
