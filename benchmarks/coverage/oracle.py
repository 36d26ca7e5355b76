"""What perfect rules would remove, found by numbers alone; nothing of `gate2static.prune` is used.

The lifted network runs node by node on a random image and random cotangents are propagated back from every output. An
element that gets no gradient is read by nobody; an element that has the same value in several streams need be
computed only once. Flat activations are replaced by smooth ones and maxima by means, so that a gradient is zero only
where nothing depends on the element.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from benchmarks.coverage.counting import flop_counter
from gate2static.gates import GatedModel


@dataclass(frozen=True, kw_only=True)
class Removable:
    """MACs per sample.

    Attributes:
        gated: of all T+1 branches and the heads.
        perfect: what is left once nothing is computed that no output depends on, and nothing twice.
        stateless: share of `gated` in operators without weights, such as attention.
    """

    gated: int
    perfect: float
    stateless: float


def removable(gated: GatedModel, images: Tensor) -> Removable:
    """Run the oracle.

    Args:
        gated: in eval mode; in float64 if it can be afforded.
        images: a batch of one, of the same dtype.
    """
    for parameter in gated.parameters():
        parameter.requires_grad_(False)
    tape = _Tape(gated.encoder)
    with _Smooth():
        features = tape.run(images.clone().requires_grad_())
    with flop_counter() as counter:
        outputs = [gated.heads[task](f) for task, f in zip(gated.tasks, features, strict=True)]
    heads = counter.get_total_flops() // 2
    torch.autograd.backward(outputs, [torch.randn_like(y) for y in outputs])
    streams = len(gated.tasks) + 1
    total, perfect, stateless = heads, float(heads), 0
    for nodes in tape.groups.values():
        macs = max(n.macs for n in nodes)
        total += streams * macs
        stateless += streams * macs * (not nodes[0].weights)
        perfect += macs * _distinct(nodes, streams)
    return Removable(gated=total, perfect=perfect, stateless=stateless / total)


@dataclass(frozen=True, kw_only=True)
class _Taped:
    value: Tensor
    macs: int
    weights: bool
    channel_dim: int | None


class _Tape(fx.Interpreter):
    """Keeps what costs multiply-accumulates, grouped by the program's node that it was lifted from."""

    def __init__(self, encoder: fx.GraphModule) -> None:
        super().__init__(encoder)
        self.groups: dict[int, list[_Taped]] = defaultdict(list)

    def run_node(self, n: fx.Node) -> Any:
        with flop_counter() as counter:
            result = super().run_node(n)
        macs = counter.get_total_flops() // 2
        if not macs:
            return result
        value = next(leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor))
        if not value.requires_grad:
            value = result = value.detach().requires_grad_()
        value.retain_grad()
        layer = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        weights = layer is not None and any(True for _ in layer.parameters())
        # Copies that lifting makes of a node share its annotations.
        self.groups[id(n.meta["info"])].append(
            _Taped(value=value, macs=macs, weights=weights, channel_dim=_channel_dim(layer))
        )
        return result


def _channel_dim(layer: nn.Module | None) -> int | None:
    if isinstance(layer, nn.Linear):
        return -1
    return 1 if isinstance(layer, nn.modules.conv._ConvNd) else None


def _distinct(nodes: list[_Taped], streams: int) -> float:
    """How many streams' worth of a node must be computed.

    An element is needed where a stream's copy of it is live; copies of equal value count once. What is dead in every
    stream, such as tokens that no head reads, was dead in the backbone already: shares are of what is live in any.
    """
    values = [n.value.detach() for n in nodes]
    live = [_live(n) for n in nodes]
    anywhere = torch.stack(live).any(0)
    if not anywhere.any():
        return float(streams)
    distinct = 0
    for i, own in enumerate(live):
        fresh = own.clone()
        for other, value in zip(live[:i], values[:i], strict=True):
            if own.shape == value.shape:
                fresh &= ~(other & (values[i] == value))
        distinct += int(fresh.sum())
    return distinct / int(anywhere.sum())


def _live(node: _Taped) -> Tensor:
    """Bool, one an element; one a channel for layers with channels, whose weights differ from stream to stream."""
    gradient = node.value.grad
    if gradient is None:
        gradient = torch.zeros_like(node.value)
    if not gradient.isfinite().all():
        raise ValueError("the oracle's gradient is not finite")
    live = gradient != 0
    if node.channel_dim is None or live.dim() < 2:
        return live
    return live.movedim(node.channel_dim, 0).flatten(1).any(1)


class _Smooth(TorchFunctionMode):
    """Replaces functions whose derivative can be exactly zero by ones of the same shape where it never is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _SMOOTH.get(func, func)(*args, **(kwargs or {}))


def _step(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Like a sigmoid, without its saturation."""
    return 0.5 + 0.5 * F.softsign(x)


def _ramp(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Like a ReLU: positive and increasing."""
    return F.softplus(x)


def _swish(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return x * _step(x)


def _mean_pool(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    **_: Any,
) -> Tensor:
    # Padding before a maximum is minus infinity, which has no mean.
    return F.avg_pool2d(x.nan_to_num(neginf=0.0), kernel_size, stride, padding, ceil_mode)


def _mean(x: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    return x.mean(dim, keepdim)


def _mean_adaptive(x: Tensor, output_size: Any, return_indices: bool = False) -> Tensor:
    return F.adaptive_avg_pool2d(x, output_size)


_STEPS = (torch.sigmoid, Tensor.sigmoid, F.sigmoid, F.hardsigmoid, F.relu6, F.hardtanh, torch.tanh, Tensor.tanh, F.tanh)
_SMOOTH: dict[Any, Callable[..., Tensor]] = {
    **dict.fromkeys(_STEPS, _step),
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu), _ramp),
    **dict.fromkeys((F.gelu, F.silu, F.mish, F.hardswish), _swish),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), _mean_pool),
    F.adaptive_max_pool2d: _mean_adaptive,
    **dict.fromkeys((torch.amax, Tensor.amax), _mean),
}
