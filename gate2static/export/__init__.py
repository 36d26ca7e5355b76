"""Static networks as deployment files: ONNX, and TensorRT and TensorRT-RTX engines."""

from gate2static.export.engine_from_onnx import EngineReport, build_engine
from gate2static.export.equality import onnx_errors
from gate2static.export.formats import export_static, export_table
from gate2static.export.int8_from_onnx import Int8Report, calibration_batches, quantize_onnx
from gate2static.export.onnx_from_static import OnnxReport, export_onnx
from gate2static.export.pt2_from_static import Pt2Report, export_pt2

__all__ = [
    "EngineReport",
    "Int8Report",
    "OnnxReport",
    "Pt2Report",
    "build_engine",
    "calibration_batches",
    "export_onnx",
    "export_pt2",
    "export_static",
    "export_table",
    "onnx_errors",
    "quantize_onnx",
]
