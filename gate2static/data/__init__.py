"""Data sets, by the names that a recipe uses; their samples are `(image, {task: target})`."""

from gate2static.data.contract import DataSpec, OwnData, PixelSpec, Sample, Splits, TargetSpec
from gate2static.data.registry import DATA_SETS, describe_data, load_data
from gate2static.data.shards.index import index_shards
from gate2static.data.shards.writing import write_shards

__all__ = [
    "DATA_SETS",
    "DataSpec",
    "OwnData",
    "PixelSpec",
    "Sample",
    "Splits",
    "TargetSpec",
    "describe_data",
    "index_shards",
    "load_data",
    "write_shards",
]
