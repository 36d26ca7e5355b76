"""The one table of what torch's layers and functions do to channels.

Tracing looks up here which layers end in a gate, gates look up what carries a residual stream, and the pruner looks up
which rule an operator belongs to. An operator that torch adds is entered here and nowhere else.

Layers are classes, to be compared with what `layer_class` returns. Functions are names as `function_name` returns them,
so that one entry stands for the function, the method and the operator of Python; tables of function objects say so.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from gate2static.program.layer_kinds import has_own_forward, layer_class

Layers = tuple[type[nn.Module], ...]

# Weight layers: each output channel is computed from all input channels of its group, with weights of its own.

PLAIN_CONVOLUTIONS: Layers = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Convolutions whose weight is (channels out, channels in / groups, *window)."""

TRANSPOSED_CONVOLUTIONS: Layers = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Convolutions whose weight is (channels in, channels out / groups, *window)."""

WEIGHT_LAYERS: Layers = (*PLAIN_CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, nn.Linear)
"""Layers that start a gated unit."""

WEIGHT_FUNCTIONS = (
    F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
)  # fmt: skip
"""Function objects that compute what `WEIGHT_LAYERS` compute; their second argument is the weight."""

FEATURES_LAST: Layers = (nn.Embedding, nn.EmbeddingBag, nn.Bilinear)
"""Layers whose output has its channels along the last dimension, whatever its number of dimensions."""

# Norms: their statistics span the batch and the positions, or some channels.

BATCH_NORMS: Layers = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Norms that scale and shift every channel by itself once their statistics are fixed."""

INSTANCE_NORMS: Layers = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
"""Norms over the positions of one channel of one sample; (N, C, *positions) of 3, 4 and 5 dimensions."""

RUNNING_NORMS: Layers = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
"""Base classes of the norms that may use other statistics in training than in evaluation."""

NORM_LAYERS: Layers = (*RUNNING_NORMS, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Base classes of all norms: they belong to the unit of the layer that they follow."""

# Pointwise: out[i] = f(in[i]) with one f for all elements, so channels stay apart wherever they lie.

ACTIVATION_LAYERS: Layers = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.LogSigmoid,
    nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.Hardshrink, nn.Softshrink,
    nn.Tanhshrink, nn.Threshold,
)  # fmt: skip
"""Activations without parameters or random numbers."""

RANDOM_ACTIVATION_LAYERS: Layers = (nn.RReLU,)
"""Activations that draw random numbers in training, so that equal inputs have different outputs there."""

ACTIVATION_FUNCTIONS = frozenset({
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "sigmoid", "log_sigmoid", "tanh",
    "hardswish", "hardsigmoid", "hardtanh", "softplus", "softsign", "hardshrink", "softshrink", "tanhshrink",
    "threshold", "_threshold",
})  # fmt: skip
"""Activations without parameters or random numbers; `F.logsigmoid` and `F.threshold` have the names that differ."""

_MATHEMATICS = frozenset({
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "square", "pow", "reciprocal", "abs",
    "neg", "sign", "floor", "ceil", "round", "trunc", "frac", "erf", "sin", "cos", "tan", "atan", "asinh", "clamp",
    "clamp_min", "clamp_max", "nan_to_num", "masked_fill", "isnan", "logical_not", "bitwise_not",
})  # fmt: skip

_COPIES = frozenset({"contiguous", "detach", "clone", "to", "float", "half", "double", "bfloat16"})

_ARITHMETIC_WITH_NUMBERS = frozenset({"add", "sub", "mul", "div", "truediv", "iadd", "rsub"})

POINTWISE_FUNCTIONS = ACTIVATION_FUNCTIONS | _MATHEMATICS | _COPIES | _ARITHMETIC_WITH_NUMBERS
"""Functions of one tensor, and of numbers, that map every element by itself."""

# Element-wise with several operands: out[i] = f(a[i], b[i], …); operands may be broadcast.

ELEMENTWISE_FUNCTIONS = frozenset({
    operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.floordiv, operator.mod,
    operator.gt, operator.ge, operator.lt, operator.le, operator.and_, operator.or_,
    torch.add, torch.sub, torch.mul, torch.div, torch.pow, torch.maximum, torch.minimum, torch.lerp, torch.where,
    torch.addcmul, torch.addcdiv, torch.masked_fill, torch.hypot, torch.atan2,
})  # fmt: skip
"""Function objects of several tensors that line up element by element."""

ELEMENTWISE_METHODS = frozenset({
    "add", "sub", "mul", "div", "pow", "maximum", "minimum", "lerp", "where", "addcmul", "addcdiv", "masked_fill",
    "__add__", "__sub__", "__mul__", "__truediv__",
})  # fmt: skip
"""Methods of several tensors that line up element by element."""

ADDITIONS = (operator.add, torch.add, "add")
"""Targets of nodes that add: function objects, and the name of the method."""

SUBTRACTIONS = (operator.sub, torch.sub, "sub")
"""Targets of nodes that subtract: function objects, and the name of the method."""

# Cost: what torch's own FLOP counter does not know. Other recurrent layers run as the products that they consist of.


def _steps(x_shape: torch.Size, *matrices: torch.Size) -> int:
    """Returns the FLOPs of recurrent layers: each matrix multiplies a vector at every step of every sequence."""
    return 2 * x_shape[0] * x_shape[1] * sum(matrix.numel() for matrix in matrices if len(matrix) == 2)


def _onednn_rnn(x_shape: torch.Size, w0: torch.Size, w1: torch.Size, *rest: Any, **named: Any) -> int:
    return _steps(x_shape, w0, w1)


def _cudnn_rnn(x_shape: torch.Size, weights: Sequence[torch.Size], *rest: Any, **named: Any) -> int:
    return _steps(x_shape, *weights)


FLOPS: Mapping[Any, Callable[..., int]] = {
    torch.ops.aten.mkldnn_rnn_layer: _onednn_rnn,
    torch.ops.aten._cudnn_rnn: _cudnn_rnn,
}
"""Operator -> its FLOPs, from the shapes of its tensors and its other arguments."""

# Spatial: every channel of (N, C, *positions) is mapped by itself, with one f for all channels.

POOLING_LAYERS: Layers = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool1d, nn.LPPool2d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)  # fmt: skip
"""Pooling over windows of positions; the end of a class's name says along how many dimensions, see `window_dims`."""

_RESIZING_LAYERS: Layers = (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d)

_PADDING_LAYERS: Layers = (
    nn.ZeroPad1d, nn.ConstantPad1d, nn.ReflectionPad1d, nn.ReplicationPad1d,
    nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d,
)  # fmt: skip

SPATIAL_LAYERS: Layers = (*POOLING_LAYERS, *_RESIZING_LAYERS, *_PADDING_LAYERS, *INSTANCE_NORMS)
"""Layers that map the positions of every channel by itself; instance norms do where they have no parameters."""

SPATIAL_FUNCTIONS = frozenset({
    "max_pool1d", "max_pool2d", "max_pool3d", "_max_pool1d", "_max_pool2d", "_max_pool3d", "avg_pool1d", "avg_pool2d",
    "avg_pool3d", "lp_pool1d", "lp_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "interpolate", "upsample",
})  # fmt: skip
"""Functions that map the positions of every channel by itself."""

# Along dimensions that the call names: channels elsewhere stay apart.

SOFTMAX_LAYERS: Layers = (nn.Softmax, nn.LogSoftmax)
"""Layers that work along the one dimension of their attribute `dim`."""

FUNCTIONS_ALONG_DIMS: Mapping[str, int] = {
    "mean": 1, "sum": 1, "prod": 1, "amax": 1, "amin": 1, "var": 1, "std": 1, "logsumexp": 1, "softmax": 1,
    "log_softmax": 1, "softmin": 1, "cumsum": 1, "cumprod": 1, "glu": 1, "normalize": 2, "norm": 2,
    "linalg_vector_norm": 2,
}  # fmt: skip
"""Function -> the position of its argument `dim`, where the tensor is position 0."""

# Movements: every element of the result is an element of the tensor, and nothing is computed.

MOVES = frozenset({
    "reshape", "view", "view_as", "reshape_as", "flatten", "ravel", "unflatten", "permute", "transpose", "movedim",
    "t", "squeeze", "unsqueeze", "select", "narrow", "getitem", "__getitem__", "flip", "roll", "rot90", "expand",
    "expand_as", "broadcast_to", "repeat", "repeat_interleave", "tile", "diagonal",
})  # fmt: skip
"""Functions that return one tensor of moved elements."""

MOVES_TO_A_SHAPE = frozenset({"expand_as", "view_as", "reshape_as"})
"""The members of `MOVES` whose second argument is a tensor of which only the shape is read."""

MOVE_LAYERS: Layers = (nn.Flatten, nn.Unflatten)
"""Layers that return one tensor of moved elements."""

TRANSPOSED_ATTRIBUTES = frozenset({"T", "mT"})
"""Attributes of a tensor that are the tensor with dimensions swapped."""

SPLITS = frozenset({
    "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "hsplit", "vsplit", "dsplit",
})  # fmt: skip
"""Functions that return several tensors of moved elements."""


def function_name(node: fx.Node) -> str:
    """Returns the name of the function or method of torch that a node calls, or "" for anything else.

    A user's own function may have the name of one of torch's, so functions of other packages have no name here.
    """
    if node.op == "call_method":
        return str(node.target)
    # Torch's built-in functions have no module.
    origin = getattr(node.target, "__module__", None) or "torch"
    if node.op != "call_function" or origin.partition(".")[0] not in ("torch", "_operator"):
        return ""
    return str(getattr(node.target, "__name__", ""))


def window_dims(name: str) -> int | None:
    """Returns how many dimensions the windows of a spatial operator have, or None where its name does not say.

    Args:
        name: The name of a class or a function, such as "MaxPool2d" or "avg_pool3d".
    """
    suffix = re.search(r"([123])d$", name)
    return int(suffix[1]) if suffix else None


def is_norm(module: nn.Module | None) -> bool:
    """Returns whether a module is a norm of torch, or a norm that timm or torchvision computes in its own way."""
    if module is None or has_own_forward(module):
        return False
    kind = layer_class(module)
    return isinstance(module, NORM_LAYERS) or (kind is not None and issubclass(kind, NORM_LAYERS))
