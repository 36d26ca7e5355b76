"""Operators that map every channel by itself, alike for all channels.

Activations, pooling, interpolation, and what works along other dimensions, such as the softmax of attention. They run
once on each physical part, and keep its numbering. What works along a channel dimension reads the value without it: the
softmax over the channels of a head needs whole heads.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from torch import Tensor, fx, nn

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.program.layer_kinds import layer_class
from gate2static.prune.analysis.channel_access import read
from gate2static.prune.analysis.channel_dims import axis, others
from gate2static.prune.analysis.nodes import argument, function_name, module_of, tensor_inputs
from gate2static.prune.analysis.numbering import Decisions, Numbering, any_of
from gate2static.prune.emission.emitter import Emitter, detached_copy
from gate2static.prune.emission.parts import Part, Pool
from gate2static.prune.rules.rule import Rule

_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.LogSigmoid,
    nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.Hardshrink, nn.Softshrink,
    nn.Tanhshrink, nn.Threshold, nn.RReLU,
)  # fmt: skip
_SPATIAL = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool1d, nn.LPPool2d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d, nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, nn.ZeroPad2d,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d,
    nn.CircularPad2d, nn.ZeroPad1d, nn.ConstantPad1d, nn.ReflectionPad1d, nn.ReplicationPad1d,
)  # fmt: skip
_ANYWHERE = {
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "sigmoid", "logsigmoid", "tanh",
    "hardswish", "hardsigmoid", "hardtanh", "softplus", "softsign", "hardshrink", "exp", "log", "sqrt", "rsqrt", "abs",
    "neg", "square", "pow", "reciprocal", "sign", "floor", "ceil", "round", "erf", "sin", "cos", "clamp",
    "clamp_min", "clamp_max", "nan_to_num", "masked_fill", "isnan", "logical_not", "expm1", "log1p", "tanhshrink",
    "softshrink", "threshold", "log2", "log10", "exp2", "tan", "atan", "asinh", "frac", "trunc", "bitwise_not",
    "contiguous", "detach", "clone",
    "float", "half", "double", "bfloat16", "to", "add", "sub", "mul", "div", "truediv", "iadd", "rsub",
}  # fmt: skip
_ON_SPACE = {
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "lp_pool1d", "lp_pool2d", "interpolate", "upsample", "_max_pool1d", "_max_pool2d", "_max_pool3d",
}  # fmt: skip
_ALONG = {
    "mean": 1, "sum": 1, "amax": 1, "amin": 1, "var": 1, "std": 1, "logsumexp": 1, "softmax": 1, "log_softmax": 1,
    "softmin": 1, "cumsum": 1, "cumprod": 1, "normalize": 2, "norm": 2, "vector_norm": 2, "linalg_vector_norm": 2,
    "glu": 1, "prod": 1,
}  # fmt: skip
"""Function -> position of its argument `dim`."""
_SOFTMAX = (nn.Softmax, nn.LogSoftmax)


class Channelwise(Rule):
    """out[c] = f(in[c]) with one f for all channels and streams."""

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        tensors, after = tensor_inputs(node), node.meta["info"]
        if len(tensors) != 1 or rules[tensors[0]].dims is None or after.shape is None:
            return None
        source = rules[tensors[0]]
        module = module_of(gated, node, 0)
        along = _dims_along(node, module, len(source.info.shape or ()))
        dims = source.dims if along is None else tuple(d for d in source.dims or () if d not in along)
        if not dims or (along is None and not _is_channelwise(node, source, module)):
            return None
        if along is not None and set(along) & set(source.info.batch_dims):
            return None
        reading = read(source, dims)
        gone = [] if along is None or len(after.shape) == len(reading.shape) else along
        sizes = [read(rules[n]) for n in node.all_input_nodes if n is not source.node]
        made = cls(node, [reading, *sizes], reading.channels, tuple(d - sum(g < d for g in gone) for d in dims))
        made.along = along
        return made

    along: list[int] | None
    """The dimensions that the operator works along; None where it does not name any."""

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        return inputs[0]

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [need, *(any_of(need, 1) for _ in self.inputs[1:])]

    def origins(self, own: Numbering, inputs: Sequence[Numbering]) -> list[tuple[int, Ids]]:
        return [(0, np.arange(own.size))]

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        source = emitter.pool(self.inputs[0])
        sizes = {r.node: emitter.canonical(r.rule, 0) for r in self.inputs[1:]}
        groups = emitter.by_parts(self, source, live)
        parts = [Part(self._call(emitter.view(source, ids), sizes, emitter), ids) for ids in groups]
        return Pool(tuple(parts), self.dim)

    def _call(self, view: fx.Node, sizes: dict[fx.Node, Any], emitter: Emitter) -> fx.Node:
        reading = self.inputs[0]
        replacements = {**sizes, reading.node: view}
        if len(reading.dims) == 1:
            return emitter.call_like(self, 0, replacements)
        if self.along is None:
            made = emitter.call_like(self, 0, replacements)
            # A physical tensor has fewer dimensions than the memory format was meant for.
            made.kwargs = {k: v for k, v in made.kwargs.items() if k != "memory_format"}
            return made
        labels = others(len(reading.shape), reading.dims)
        labels.insert(axis(reading.dims), -1)
        dims: Any = [labels.index(d) for d in self.along]
        dims = dims if len(dims) > 1 else dims[0]
        if self.node.op == "call_module":
            softmax: Any = detached_copy(emitter.gated, self.node, 0)
            softmax.dim = dims
            return emitter.module(self.node, softmax, (view,))
        made = emitter.call_like(self, 0, replacements)
        position = _ALONG[function_name(self.node)]
        if len(made.args) > position:
            made.update_arg(position, dims)
        else:
            made.kwargs = {**made.kwargs, "dim": dims}
        return made


def _dims_along(node: fx.Node, module: nn.Module | None, ndim: int) -> list[int] | None:
    """The dimensions that a reduction, a softmax or the like works along; None for other operators."""
    if layer_class(module) in _SOFTMAX:
        dims: Any = module.dim  # type: ignore[union-attr]
    elif (name := function_name(node)) in _ALONG:
        dims = argument(node, _ALONG[name], "dim", 1 if name == "normalize" else None)
    else:
        return None
    if dims is None or dims in ((), []):
        return list(range(ndim))
    return sorted({d % ndim for d in (dims if isinstance(dims, list | tuple) else [dims])})


def _is_channelwise(node: fx.Node, source: Rule, module: nn.Module | None) -> bool:
    """Whether an operator that names no dimensions is known to keep channels apart."""
    before, after = source.info.shape or (), node.meta["info"].shape
    if node.op == "call_module":
        kind = layer_class(module)
        return kind in _ACTIVATIONS or (kind in _SPATIAL and _spares_channels(kind.__name__, source, after))
    name = function_name(node)
    if name in _ANYWHERE:
        return tuple(before) == tuple(after)
    if name in _ON_SPACE:
        return _spares_channels(name, source, after)
    if source.dims is None or len(source.dims) > 1:
        return False
    if name == "pad":
        widths = list(argument(node, 1, "pad"))
        padded = {len(before) - 1 - i // 2 for i, width in enumerate(widths) if width != 0}
        return not padded.intersection(source.dims)
    # Windows of another dimension; the function of the same name makes channels of them.
    return (
        node.op == "call_method"
        and name == "unfold"
        and argument(node, 1, "dimension") % len(before) not in source.dims
    )


def _spares_channels(name: str, source: Rule, after: Sequence[int]) -> bool:
    """Whether a spatial operator, which may be one of `1d`, `2d` or `3d`, has the channels outside its window."""
    before = source.info.shape or ()
    spatial = re.search(r"([123])d$", name)
    return source.dims == (1,) and len(before) == len(after) == (int(spatial[1]) + 2 if spatial else len(before))
