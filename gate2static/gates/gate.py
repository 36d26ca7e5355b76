"""The gate of one unit: which channels a task takes from its own branch, and what the shared stream mixes."""

import math
from typing import Any

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    """Gate logits α and mixing logits β of one gated unit (eq. 2 and 3, papers/README readings 1 and 2).

    Args:
        tasks: T.
        channels: C.
        dim: the channel dimension of the unit's output.
        group_size: neighbouring channels that share one gate logit.
        gate_init: mean of the initial α (papers/README reading 6). Positive: tasks start on their own features, which
            is where the paper's initialisation from single-task networks leaves them.
        gate_init_std: standard deviation of the initial α. Without spread every gate starts on the same side, and a
            shared branch that no task picks gets no gradient.

    Attributes:
        alpha: gate logits, (T, ceil(C / group_size)); positive means task-specific.
        beta: mixing logits, (T, C).
    """

    def __init__(
        self, *, tasks: int, channels: int, dim: int, group_size: int, gate_init: float, gate_init_std: float
    ) -> None:
        super().__init__()
        self.channels, self.dim, self.group_size = channels, dim, group_size
        self.alpha = nn.Parameter(
            torch.empty(tasks, math.ceil(channels / group_size)).normal_(gate_init, gate_init_std)
        )
        self.beta = nn.Parameter(torch.zeros(tasks, channels))

    def _per_channel(self, groups: Tensor) -> Tensor:
        return groups.repeat_interleave(self.group_size, dim=1)[:, : self.channels]

    def decisions(self) -> Tensor:
        """(T, C) bool, True where the task takes its own channel. α > 0 is σ(α) > 0.5 in every dtype."""
        return self._per_channel(self.alpha.detach() > 0)

    def probabilities(self) -> Tensor:
        """σ(α), (T, C), differentiable."""
        return self._per_channel(self.alpha.sigmoid())

    def mixing(self) -> Tensor:
        """Softmax of β over the tasks, (T, C), differentiable."""
        return self.beta.softmax(0)

    def contributions(self) -> list[float]:
        """Share of channels where each task has the largest mixing weight (figure 3 of the paper)."""
        winners = self.beta.detach().argmax(0)
        return [float((winners == t).double().mean()) for t in range(self.beta.shape[0])]

    def forward(self, *streams: Tensor) -> tuple[Tensor, ...]:
        """T+1 feature maps φ_1 … φ_T, ψ -> φ′_1 … φ′_T, ψ′, all of one shape with C channels at `dim`."""
        soft = self.probabilities()
        straight_through = self.decisions().to(soft.dtype) + (soft - soft.detach())
        outputs: tuple[Tensor, ...] = _SelectAndMix.apply(self.dim, straight_through, self.mixing(), *streams)
        return outputs


class _SelectAndMix(torch.autograd.Function):
    """Eq. 2 and 3 in few passes over memory.

    A gate is 0 or 1, and `lerp` returns its end points exactly there. Gradients of the gates and of the mixing weights
    are inner products over all but the channels, combined from those of the raw gradients so that no tensor of the
    features' size is written for them.
    """

    @staticmethod
    def forward(ctx: Any, dim: int, gates: Tensor, mixing: Tensor, *streams: Tensor) -> tuple[Tensor, ...]:
        *own, shared = streams
        shape = [1] * shared.dim()
        shape[dim] = -1
        picked = [torch.lerp(shared, x, g.view(shape)) for x, g in zip(own, gates, strict=True)]
        mixed = picked[0] * mixing[0].view(shape)
        for weight, x in zip(mixing[1:], picked[1:], strict=True):
            mixed.addcmul_(x, weight.view(shape))
        ctx.shape, ctx.dim = shape, dim % shared.dim()
        ctx.save_for_backward(gates, mixing, *streams)
        return *picked, mixed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gates, mixing, *streams = ctx.saved_tensors
        *own, shared = streams
        *grad_picked, grad_mixed = grads
        grad_gates, grad_mixing = torch.empty_like(gates), torch.empty_like(mixing)
        grad_own: list[Tensor] = []
        grad_shared = grad_mixed * ((1 - gates) * mixing).sum(0).view(ctx.shape)
        mixed_shared = _channel_dot(grad_mixed, shared, ctx.dim)
        for t, (x, grad) in enumerate(zip(own, grad_picked, strict=True)):
            gate = gates[t].view(ctx.shape)
            grad_own.append((grad * gate).addcmul_(grad_mixed, gate * mixing[t].view(ctx.shape)))
            grad_shared.addcmul_(grad, 1 - gate)
            mixed_own = _channel_dot(grad_mixed, x, ctx.dim)
            difference = _channel_dot(grad, x, ctx.dim) - _channel_dot(grad, shared, ctx.dim)
            grad_gates[t] = difference + mixing[t] * (mixed_own - mixed_shared)
            grad_mixing[t] = torch.lerp(mixed_shared, mixed_own, gates[t])
        return None, grad_gates, grad_mixing, *grad_own, grad_shared


def _channel_dot(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Inner products over all dimensions but `dim`."""
    if dim == 1 and a.dim() > 2:
        return torch.linalg.vecdot(a.flatten(2), b.flatten(2)).sum(0)
    return torch.linalg.vecdot(a.movedim(dim, 0).flatten(1), b.movedim(dim, 0).flatten(1))
