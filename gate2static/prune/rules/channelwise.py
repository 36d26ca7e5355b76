"""Operators that map every channel by itself, alike for all channels: activations, pooling, interpolation, reductions.

They run once on each physical part, and keep its numbering.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Self

from torch import Tensor, fx, nn

from gate2static.gates.layers import layer_class
from gate2static.gates.model import GatedModel
from gate2static.prune.physical import Emitter, Part, Pool
from gate2static.prune.rules.rule import Ids, Numbering, Rule, any_of, argument, module_of, tensor_inputs

_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.LogSigmoid,
    nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.Hardshrink, nn.Softshrink,
    nn.Tanhshrink, nn.Threshold,
)  # fmt: skip
_SPATIAL = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool1d, nn.LPPool2d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d, nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, nn.ZeroPad2d,
    nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d,
)  # fmt: skip
_ANYWHERE = {
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "sigmoid", "logsigmoid", "tanh",
    "hardswish", "hardsigmoid", "hardtanh", "softplus", "softsign", "exp", "log", "sqrt", "rsqrt", "abs", "neg",
    "square", "pow", "clamp", "clamp_min", "clamp_max", "contiguous", "detach", "clone", "float", "reciprocal",
    "add", "sub", "mul", "div", "truediv", "iadd", "rsub",
}  # fmt: skip
_ON_SPACE = {
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "interpolate", "upsample", "boolean_dispatch", "_max_pool1d", "_max_pool2d", "_max_pool3d",
}  # fmt: skip
_REDUCTIONS = {"mean", "sum", "amax", "amin"}


class Channelwise(Rule):
    """out[c] = f(in[c]) with one f for all channels and streams."""

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        tensors = tensor_inputs(node)
        if len(tensors) != 1 or rules[tensors[0]].dim is None or node.meta["info"].shape is None:
            return None
        source = rules[tensors[0]]
        dim = _dim_after(node, source, module_of(gated, node, 0))
        sizes = [rules[n] for n in node.all_input_nodes if n is not source.node]
        return None if dim is None else cls(node, [source, *sizes], source.channels, dim)

    def number(self, inputs: Sequence[Numbering], gated: GatedModel) -> Numbering:
        return inputs[0]

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [need, *(any_of(need, 1) for _ in self.inputs[1:])]

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        source = emitter.pool(self.inputs[0])
        sizes = {r.node: emitter.canonical(r, 0) for r in self.inputs[1:]}
        parts = [
            Part(emitter.call_like(self, 0, {**sizes, self.inputs[0].node: emitter.view(source, ids)}), ids)
            for ids in emitter.by_parts(self, source, live)
        ]
        return Pool(tuple(parts), self.dim)


def _dim_after(node: fx.Node, source: Rule, module: nn.Module | None) -> int | None:
    """The channel dimension of the result, or None where the operator is not known to keep channels apart."""
    assert source.dim is not None
    before, after = source.info.shape or (), node.meta["info"].shape
    dim = source.dim
    if node.op == "call_module":
        kind = layer_class(module)
        if kind in _ACTIVATIONS:
            return dim
        return dim if kind in _SPATIAL and _spares_channels(kind.__name__, source, after) else None
    # Somebody's own function may have the name of one of torch's.
    origin = getattr(node.target, "__module__", None) or "torch"
    if node.op == "call_function" and origin.partition(".")[0] not in ("torch", "_operator"):
        return None
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    if name in _ANYWHERE and before == after:
        return dim
    if name in _ON_SPACE and _spares_channels(name, source, after):
        return dim
    if name == "pad":
        padded = len(argument(node, 1, "pad")) // 2
        return dim if dim < len(before) - padded else None
    if name in _REDUCTIONS:
        return _dim_after_reduction(node, dim, before, after)
    if name == "flatten":
        return _dim_after_flatten(node, dim, before)
    return None


def _spares_channels(name: str, source: Rule, after: Sequence[int]) -> bool:
    """Whether a spatial operator, which may be one of `1d`, `2d` or `3d`, has the channels outside its window."""
    before = source.info.shape or ()
    spatial = re.search(r"([123])d$", name)
    return source.dim == 1 and len(before) == len(after) == (int(spatial[1]) + 2 if spatial else len(before))


def _dim_after_reduction(node: fx.Node, dim: int, before: Sequence[int], after: Sequence[int]) -> int | None:
    reduced, ndim = argument(node, 1, "dim", node.kwargs.get("axis")), len(before)
    if reduced is None or reduced in ((), []):
        return None
    dims = {d % ndim for d in (reduced if isinstance(reduced, list | tuple) else [reduced])}
    if dim in dims or 0 in dims:
        return None
    return dim if len(after) == ndim else dim - sum(d < dim for d in dims)


def _dim_after_flatten(node: fx.Node, dim: int, before: tuple[int, ...]) -> int | None:
    start = argument(node, 1, "start_dim", 0) % len(before)
    return dim if start > dim else None
