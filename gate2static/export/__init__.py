"""Static networks as deployment files: ONNX, and TensorRT and TensorRT-RTX engines."""

from gate2static.export.engine_from_onnx import EngineReport, build_engine
from gate2static.export.equality import onnx_errors
from gate2static.export.int8_from_onnx import Int8Report, quantize_onnx
from gate2static.export.onnx_from_static import OnnxReport, export_onnx

__all__ = ["EngineReport", "Int8Report", "OnnxReport", "build_engine", "export_onnx", "onnx_errors", "quantize_onnx"]
