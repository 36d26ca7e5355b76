"""Where ONNX Runtime spends the time of a network."""

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

_RUNS = 10
_MOVES = "moves as convolutions"
KINDS = {
    "convolutions and products": {"Conv", "FusedConv", "Gemm", "MatMul", "FusedMatMul", "ConvTranspose"},
    "copies": {"Concat", "Slice", "Split", "Gather", "ReorderInput", "ReorderOutput", "Transpose", "Reshape", "Expand"},
    _MOVES: {},
}


def profile(path: Path, threads: int) -> dict[str, float]:
    """Milliseconds a run by kind of operator: `KINDS`, and everything else as "element-wise and other"."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (value,) = session.get_inputs()
        feed = {value.name: np.random.default_rng(0).normal(size=(1, *value.shape[1:])).astype(np.float32)}
        for _ in range(_RUNS):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    moves = _moves(path)
    found = dict.fromkeys((*KINDS, "element-wise and other"), 0.0)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            operator = event["args"]["op_name"]
            kind = next((k for k, names in KINDS.items() if operator in names), "element-wise and other")
            if event["name"].removesuffix("_kernel_time").removesuffix("_nchwc") in moves:
                kind = _MOVES
            found[kind] += event["dur"] / 1e3 / _RUNS
    return found


def _moves(path: Path) -> set[str]:
    """Convolutions of `convolve_moves`, by name and by result: of one position, depth-wise or mostly zeros."""
    graph = onnx.load(path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}

    def only_moves(node: onnx.NodeProto) -> bool:
        weight = stored.get(node.input[1])
        if weight is None or any(size > 1 for size in weight.dims[2:]):
            return False
        return weight.dims[1] == 1 or (onnx.numpy_helper.to_array(weight) == 0).mean() > 0.5

    found = [node for node in graph.node if node.op_type == "Conv" and only_moves(node)]
    return {name for node in found for name in (node.name, *node.output)}
