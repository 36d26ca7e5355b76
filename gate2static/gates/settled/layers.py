"""Layers that compute only some of their output channels, on the parameters of the whole layer.

The gate behind them makes distinct channels, from which `PickChannels` takes those of single streams.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn.utils.parametrize import is_parametrized

from gate2static.gates.channel_gate import chunks
from gate2static.program.annotate import info
from gate2static.program.layer_kinds import layer_class
from gate2static.program.operators import BATCH_NORMS, TRANSPOSED_CONVOLUTIONS, WEIGHT_LAYERS

_PER_CHANNEL = ("weight", "bias", "running_mean", "running_var")
"""Parameters and buffers that have entries for output channels."""


def narrowable(branch: nn.Module, end: fx.Node) -> tuple[fx.Node, ...] | None:
    """Returns the layer and the norm of a unit whose output channels do not depend on each other.

    These are torch's own linear layers and convolutions without groups, with or without batch norm.

    Args:
        branch: The owner of the modules that the node's graph calls.
        end: The node before the unit's gate.

    Returns:
        The node of the layer, and that of its norm if there is one; None for all other units.
    """
    norm = end if type(_module(branch, end)) in BATCH_NORMS else None
    node = end if norm is None else end.all_input_nodes[0]
    # Each call of a norm moves the running statistics of all channels.
    if norm is not None and (_is_altered(_module(branch, norm)) or _calls(norm) > 1):
        return None
    layer = _module(branch, node)
    kind = layer_class(layer)
    # Only torch's own forwards are known to run on cut weights, and only stored weights to be cut.
    if layer is None or kind not in WEIGHT_LAYERS or is_parametrized(layer) or type(layer).forward is not kind.forward:
        return None
    # Whatever else reads the layer's output, or a second argument, needs the whole layer.
    if getattr(layer, "groups", 1) != 1 or len(node.users) > 1 or len(node.args) != 1 or node.kwargs:
        return None
    if norm is None:
        return (node,)
    # Batch norm works along dimension 1, where a linear layer has tokens if there are any.
    if kind is nn.Linear and len(info(node).shape or ()) != 2:
        return None
    return (node, norm)


def _calls(node: fx.Node) -> int:
    """Returns how often the graph of a node calls the node's module."""
    return sum(n.op == "call_module" and n.target == node.target for n in node.graph.nodes)


def _module(branch: nn.Module, node: fx.Node) -> nn.Module | None:
    """Returns the module that a node calls, or None for all other nodes."""
    return branch.get_submodule(str(node.target)) if node.op == "call_module" else None


def _is_altered(norm: nn.Module | None) -> bool:
    """Returns whether hooks or a forward of its own may change what a batch norm computes."""
    return not isinstance(norm, nn.SyncBatchNorm) and layer_class(norm) not in BATCH_NORMS


class NarrowLayer(nn.Module):
    """A layer and the batch norm that follows it, on some of its output channels.

    Args:
        layer: The whole layer, whose parameters are used.
        norm: The batch norm behind it, if any. Its running statistics move for the computed channels alone.
        channels: The output channels to compute, in their order.
    """

    def __init__(self, layer: nn.Module, norm: nn.Module | None = None, *, channels: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.norm = norm
        self._channels = channels
        # The dimension of the weight that counts output channels.
        self._dim = 1 if isinstance(layer, TRANSPOSED_CONVOLUTIONS) else 0
        assert isinstance(layer.weight, Tensor)
        everything = torch.arange(layer.weight.shape[self._dim])
        self._is_whole = torch.equal(channels.cpu(), everything)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the computed channels of the layer's output, normalised.

        Args:
            x: The input of the whole layer.
        """
        if self._is_whole:
            y: Tensor = self.layer(x)
            return y if self.norm is None else self.norm(y)
        # The whole layer runs on cut weights, so their gradients go to the whole weights.
        y = functional_call(self.layer, self._cut(self.layer, self._dim), (x,), tie_weights=False)
        if self.norm is None:
            return y
        state = self._cut(self.norm)
        y = functional_call(self.norm, state, (y,), tie_weights=False)
        # The norm moved the statistics in the cut copies.
        with torch.no_grad():
            for name in state.keys() & self.norm._buffers:
                self.norm.get_buffer(name).index_copy_(0, self._channels, state[name])
        return y

    def _cut(self, module: nn.Module, dim: int = 0) -> dict[str, Tensor]:
        """Returns the computed channels of a module's parameters and buffers.

        Args:
            module: The layer or its norm.
            dim: The dimension of the weight that counts output channels; all other tensors have them along 0.
        """
        tensors = {**module._parameters, **module._buffers}
        cut = {}
        for name in _PER_CHANNEL:
            tensor = tensors.get(name)
            if tensor is not None:
                cut[name] = tensor.index_select(dim if name == "weight" else 0, self._channels)
        return cut


class PickChannels(nn.Module):
    """Picks the channels of several tensors from one tensor.

    Its tensors are the inputs of what does not work channel by channel, for the streams that need them.

    Args:
        dim: The channel dimension.
        picks: For each of the tensors, its channels.
    """

    def __init__(self, dim: int, picks: Sequence[Tensor]) -> None:
        super().__init__()
        self._dim = dim
        self._picks = tuple(picks)

    def forward(self, source: Tensor) -> tuple[Tensor, ...]:
        """Returns one tensor for each pick.

        Args:
            source: The tensor to pick from.
        """
        picked: tuple[Tensor, ...] = _PickChannels.apply(source, self._dim, self._picks)
        return picked


class _PickChannels(torch.autograd.Function):
    """Several `index_select` whose gradients are summed in one pass over memory."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, dim: int, picks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        ctx.dim = dim
        ctx.picks = picks
        ctx.shape = source.shape
        # Those of a dense tensor: an expanded one has several elements in one place.
        ctx.strides = torch.empty_like(source, device="meta").stride()
        return tuple(source.index_select(dim, pick) for pick in picks)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # Laid out like the source, as the gradients of the operators before it expect.
        result = torch.empty_strided(ctx.shape, ctx.strides, dtype=grads[0].dtype, device=grads[0].device)
        for whole, *parts in chunks((result, *grads)):
            whole.zero_()
            # Channels that several tensors picked get the sum of their gradients.
            for pick, part in zip(ctx.picks, parts, strict=True):
                whole.index_add_(ctx.dim, pick, part)
        return result, None, None
