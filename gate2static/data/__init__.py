"""Data sets, by the names that a recipe uses; their samples are `(image, {task: target})`."""

from gate2static.data.contract import DataSpec, OwnData, PixelSpec, Sample, Splits, TargetSpec
from gate2static.data.registry import DATA_SETS, describe_data, load_data

__all__ = [
    "DATA_SETS",
    "DataSpec",
    "OwnData",
    "PixelSpec",
    "Sample",
    "Splits",
    "TargetSpec",
    "describe_data",
    "load_data",
]
