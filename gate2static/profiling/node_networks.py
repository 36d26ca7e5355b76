"""Small networks of ONNX operators, which run both as ONNX and as torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from gate2static.bench.sources import OnnxSource, Source, TorchSource
from gate2static.latency.kernel_kinds import Kernel
from gate2static.runtimes.optional import require

_OPSET = 20


@dataclass(frozen=True, kw_only=True)
class Node:
    """One ONNX operator.

    Attributes:
        operator: The operator's name in ONNX.
        inputs: The names of its inputs.
        output: The name of its output.
        attributes: Its ONNX attributes.
    """

    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class KernelNetwork:
    """A network with several copies of a kernel.

    Attributes:
        inputs: The shapes of the inputs, by name.
        constants: Weights and indices, by name.
        nodes: The operators in order.
        outputs: The names of the outputs.
        others: Further kernels that each copy needs, whose time does not count as the kernel's.
    """

    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    others: tuple[Kernel, ...] = ()

    def input(self, *shape: int) -> str:
        """Adds an input and returns its name."""
        self.inputs[f"x{len(self.inputs)}"] = shape
        return f"x{len(self.inputs) - 1}"

    def weight(self, *shape: int) -> str:
        """Adds a random weight, small enough that chains stay finite, and returns its name."""
        generator = np.random.default_rng(len(self.constants))
        return self.constant(0.01 * generator.standard_normal(shape, dtype=np.float32))

    def constant(self, array: NDArray[Any]) -> str:
        """Adds a constant and returns its name."""
        self.constants[f"w{len(self.constants)}"] = array
        return f"w{len(self.constants) - 1}"

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node and returns the name of its output."""
        node = Node(operator=operator, inputs=inputs, output=f"y{len(self.nodes)}", attributes=attributes)
        self.nodes.append(node)
        return node.output

    def source(self, takes: type[Source]) -> Source:
        """Returns the network as a source of the kind that a backend takes."""
        return TorchSource(network=_Interpreter(self), inputs=self._tensors) if takes is TorchSource else self._onnx()

    def onnx(self) -> bytes:
        """Returns the network as the content of an ONNX file."""
        onnx = require("onnx")
        # With the shapes of its outputs, which parsers may ask for.
        model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(self._onnx().data))
        data: bytes = model.SerializeToString()
        return data

    def _tensors(self, batch_size: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        return tuple(torch.randn(shape, generator=generator) for shape in self.inputs.values())

    def _onnx(self) -> OnnxSource:
        onnx = require("onnx")
        helper = onnx.helper
        kinds = onnx.TensorProto
        graph = helper.make_graph(
            [helper.make_node(n.operator, list(n.inputs), [n.output], **n.attributes) for n in self.nodes],
            "kernel",
            [helper.make_tensor_value_info(name, kinds.FLOAT, shape) for name, shape in self.inputs.items()],
            [helper.make_tensor_value_info(name, kinds.FLOAT, None) for name in self.outputs],
            [onnx.numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", _OPSET)])
        return OnnxSource(data=model.SerializeToString(), label="a kernel network")


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, *, strides: Any, group: int, pads: Any) -> Tensor:
    dims = len(strides)
    padding = [p for pair in zip(pads[:dims][::-1], pads[dims:][::-1], strict=True) for p in pair]
    convolution = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    if pads[:dims] == pads[dims:]:
        return convolution(x, weight, bias, strides, pads[:dims], 1, group)
    return convolution(F.pad(x, padding), weight, bias, strides, 0, 1, group)


def _deconvolve(x: Tensor, weight: Tensor, bias: Tensor, *, strides: Any, group: int) -> Tensor:
    return (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(strides) - 1](
        x, weight, bias, strides, groups=group
    )


_TORCH: Mapping[str, Callable[..., Tensor]] = {
    "Conv": _convolve,
    "ConvTranspose": _deconvolve,
    "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.dim())), keepdim=True),
    "ReduceMean": lambda x, keepdims: x.mean(),
    "MatMul": torch.matmul,
    "Add": torch.add,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Relu": F.relu,
    "Gelu": F.gelu,
    "Sigmoid": torch.sigmoid,
    "HardSigmoid": lambda x, alpha: F.hardsigmoid(x),
    "HardSwish": F.hardswish,
    "Identity": torch.clone,
    "Softmax": lambda x, axis: x.softmax(axis),
    "LayerNormalization": lambda x, w, b, axis: F.layer_norm(x, w.shape, w, b),
    "MaxPool": lambda x, kernel_shape, strides, pads=(0, 0, 0, 0): F.max_pool2d(x, kernel_shape, strides, pads[:2]),
    "Transpose": lambda x, perm: x.permute(perm),
    "Reshape": lambda x, shape: x.reshape(shape.tolist()),
    "Gather": lambda x, index, axis: x.index_select(axis, index),
    "Slice": lambda x, start, end, axis: x[..., int(start) : int(end)],
    "Concat": lambda *xs, axis: torch.cat(xs, axis),
}


class _Interpreter(nn.Module):
    """Runs the nodes with torch."""

    def __init__(self, network: KernelNetwork) -> None:
        super().__init__()
        self._network = network
        for name, array in network.constants.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(array)))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Maps the inputs to the outputs, both in order."""
        values = dict(zip(self._network.inputs, inputs, strict=True)) | dict(self.named_buffers())
        for node in self._network.nodes:
            values[node.output] = _TORCH[node.operator](*(values[i] for i in node.inputs), **node.attributes)
        return tuple(values[name] for name in self._network.outputs)
