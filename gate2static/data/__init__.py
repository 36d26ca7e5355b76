"""Data sets that yield `(image, {task: target})`, one a file, found by name."""

from gate2static.data.contract import DataSpec, Sample, Splits, TargetSpec
from gate2static.data.registry import DATA_SETS, describe_data, load_data

__all__ = ["DATA_SETS", "DataSpec", "Sample", "Splits", "TargetSpec", "describe_data", "load_data"]
