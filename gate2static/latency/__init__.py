"""Predicts latency from measured kernels or from a data sheet, without running anything."""

from pathlib import Path

from gate2static.arguments import require_path
from gate2static.errors import BenchError
from gate2static.latency.calibration import calibrated
from gate2static.latency.model import LatencyModel, OperatorCost, Precision
from gate2static.latency.prediction import Prediction, predict
from gate2static.latency.roofline import ALIASES, DEVICES, Roofline
from gate2static.latency.table import LatencyTable, load_latency_table

__all__ = [
    "ALIASES",
    "DEVICES",
    "LatencyModel",
    "LatencyTable",
    "OperatorCost",
    "Precision",
    "Prediction",
    "Roofline",
    "calibrated",
    "latency_model",
    "load_latency_table",
    "predict",
]


def latency_model(name_or_path: str | Path) -> LatencyModel:
    """Returns the roofline of a device, or a measured latency table.

    Args:
        name_or_path: The name of a device, such as "a100", or the JSON file of a table.

    Raises:
        BenchError: It is neither a known device nor a readable table.
    """
    path = require_path(name_or_path, name="the device", error=BenchError)
    name = ALIASES.get(str(name_or_path), str(name_or_path))
    if name in DEVICES:
        return DEVICES[name]
    if path.suffix != ".json" and not path.exists():
        raise BenchError(
            f"{name_or_path} is neither a latency table (a JSON file that `gate2static profile` writes) nor a known "
            f"device; known: {', '.join([*DEVICES, *ALIASES])}. Backends of this machine, such as onnxruntime, are "
            "timed, by `gate2static prune --budget` only"
        )
    return load_latency_table(name_or_path)
