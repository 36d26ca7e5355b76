"""Reports: a run folder as one HTML page that opens offline, with its pictures as PNG files."""

from gate2static.report.checks import checks_as_json, checks_table, gated_checks, onnx_checks, record, was_verified
from gate2static.report.expected_latency import expected_to_be_slow, slow_networks
from gate2static.report.figures.gates import plot_gates
from gate2static.report.latency import known_latencies, slower_than_separate
from gate2static.report.table import json_table, markdown_table, rich_table
from gate2static.report.tables.plan_table import barrier_table, plan_table, pruned_line
from gate2static.report.writing import WrittenReport, write_report, write_report_of_runs

__all__ = [
    "WrittenReport",
    "barrier_table",
    "checks_as_json",
    "checks_table",
    "expected_to_be_slow",
    "gated_checks",
    "json_table",
    "known_latencies",
    "markdown_table",
    "onnx_checks",
    "plan_table",
    "plot_gates",
    "pruned_line",
    "record",
    "rich_table",
    "slow_networks",
    "slower_than_separate",
    "was_verified",
    "write_report",
    "write_report_of_runs",
]
