"""Benchmarks: the latency of networks on deployment backends, and the backends that this machine can run."""

from gate2static.bench.backends import BACKENDS, NETWORK_BACKENDS
from gate2static.bench.doctor import Finding, diagnose, findings_table
from gate2static.bench.report import LatencyReport, TargetLatency
from gate2static.bench.rounds import benchmark
from gate2static.bench.stopwatch import Stopwatch
from gate2static.bench.table import latency_table

__all__ = [
    "BACKENDS",
    "NETWORK_BACKENDS",
    "Finding",
    "LatencyReport",
    "Stopwatch",
    "TargetLatency",
    "benchmark",
    "diagnose",
    "findings_table",
    "latency_table",
]
