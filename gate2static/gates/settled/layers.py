"""Layers that compute only some of their output channels, on the parameters of the whole layer; and reads of rows."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from gate2static.gates.channel_gate import chunks
from gate2static.program.annotate import info
from gate2static.program.layer_kinds import layer_class

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_DENSE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, *_TRANSPOSED)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_BY_CHANNEL = ("weight", "bias", "running_mean", "running_var")


def narrowable(branch: nn.Module, end: fx.Node) -> tuple[fx.Node, ...] | None:
    """The layer and the norm of a unit whose output channels do not depend on each other.

    Those are torch's own linear layers and convolutions without groups, with or without batch norm. None for others.
    """
    norm = None
    node = end
    if type(_module(branch, end)) in _NORMS:
        norm, node = end, end.all_input_nodes[0]
        if _is_altered(_module(branch, norm)) or _calls(norm) > 1:
            return None  # each call moves the running statistics of all channels
    layer = _module(branch, node)
    kind = layer_class(layer)
    if (
        kind not in _DENSE
        or getattr(type(layer), "forward", None) is not kind.forward
        or getattr(layer, "groups", 1) != 1
    ):
        return None
    if len(node.users) > 1 or len(node.args) != 1 or node.kwargs:
        return None
    if norm is None:
        return (node,)
    # Batch norm works along dimension 1, where a linear layer has tokens if there are any.
    return None if kind is nn.Linear and len(info(node).shape or ()) != 2 else (node, norm)


def _calls(node: fx.Node) -> int:
    return sum(n.op == "call_module" and n.target == node.target for n in node.graph.nodes)


def _module(branch: nn.Module, node: fx.Node) -> nn.Module | None:
    return branch.get_submodule(str(node.target)) if node.op == "call_module" else None


def _is_altered(norm: nn.Module | None) -> bool:
    return not isinstance(norm, nn.SyncBatchNorm) and layer_class(norm) not in _NORMS


class NarrowLayer(nn.Module):
    """A layer and the batch norm that follows it, on some of its output channels.

    Args:
        layer: the whole layer, whose parameters are used.
        norm: the batch norm behind it; its running statistics move for the computed channels alone.
        channels: which output channels, in which order.
    """

    def __init__(self, layer: nn.Module, norm: nn.Module | None = None, *, channels: Tensor) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm
        self._dim = 1 if isinstance(layer, _TRANSPOSED) else 0
        self._channels = channels
        assert isinstance(layer.weight, Tensor)
        self._whole = torch.equal(channels.cpu(), torch.arange(layer.weight.shape[self._dim]))

    def forward(self, x: Tensor) -> Tensor:
        """The layer's input -> the computed channels of its output, normed."""
        if self._whole:
            y: Tensor = self.layer(x)
            return y if self.norm is None else self.norm(y)
        y = functional_call(self.layer, self._cut(self.layer, self._dim), (x,), tie_weights=False)
        if self.norm is None:
            return y
        state = self._cut(self.norm)
        y = functional_call(self.norm, state, (y,), tie_weights=False)
        with torch.no_grad():
            for name in state.keys() & self.norm._buffers:
                self.norm.get_buffer(name).index_copy_(0, self._channels, state[name])
        return y

    def _cut(self, module: nn.Module, dim: int = 0) -> dict[str, Tensor]:
        """The channels of parameters and buffers; `dim` is where the weight has them."""
        named = {**module._parameters, **module._buffers}
        return {
            name: tensor.index_select(dim if name == "weight" else 0, self._channels)
            for name in _BY_CHANNEL
            if (tensor := named.get(name)) is not None
        }


class ReadRows(nn.Module):
    """Tensors whose channels are picked from one tensor of rows.

    Args:
        dim: where the rows are.
        picks: which rows each tensor has.
    """

    def __init__(self, dim: int, picks: Sequence[Tensor]) -> None:
        super().__init__()
        self._dim, self._picks = dim, tuple(picks)

    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The rows -> one tensor for each pick."""
        picked: tuple[Tensor, ...] = _ReadRows.apply(rows, self._dim, self._picks)
        return picked


class _ReadRows(torch.autograd.Function):
    """Several `index_select` whose gradients are summed in one pass over memory."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, dim: int, picks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        ctx.dim, ctx.picks = dim, picks
        ctx.shape, ctx.strides = rows.shape, rows.stride()
        return tuple(rows.index_select(dim, pick) for pick in picks)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        result = torch.empty_strided(ctx.shape, ctx.strides, dtype=grads[0].dtype, device=grads[0].device)
        for whole, *parts in chunks((result, *grads)):
            whole.zero_()
            for pick, part in zip(ctx.picks, parts, strict=True):
                whole.index_add_(ctx.dim, pick, part)
        return result, None, None
