"""Measurements of gate2static; `README.md` says what each takes and finds. All run as `python -m benchmarks.…`."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results"
"""What was measured once, as data: rows of latencies and the digests that a refactoring must not change."""
