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
        hard = self.decisions().to(soft.dtype)
        straight_through = hard + (soft - soft.detach())
        outputs: tuple[Tensor, ...] = _SelectAndMix.apply(self.dim, straight_through, self.mixing(), *streams)
        return outputs


class _SelectAndMix(torch.autograd.Function):
    """Eq. 2 and 3 in few passes over memory; exact copies where the gates are 0 or 1."""

    @staticmethod
    def forward(ctx: Any, dim: int, gates: Tensor, mixing: Tensor, *streams: Tensor) -> tuple[Tensor, ...]:
        *own, shared = streams
        shape = [1] * shared.dim()
        shape[dim] = -1
        masks = [g.view(shape) for g in gates.detach() > 0.5]
        picked = [torch.where(m, x, shared) for m, x in zip(masks, own, strict=True)]
        mixed = picked[0] * mixing[0].view(shape)
        for weight, x in zip(mixing[1:], picked[1:], strict=True):
            mixed.addcmul_(x, weight.view(shape))
        ctx.dim, ctx.shape = dim, shape
        ctx.save_for_backward(gates, mixing, *streams)
        return *picked, mixed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gates, mixing, *streams = ctx.saved_tensors
        *own, shared = streams
        *grad_picked, grad_mixed = grads
        other = [d for d in range(shared.dim()) if d != ctx.dim % shared.dim()]
        grad_gates, grad_mixing = torch.empty_like(gates), torch.empty_like(mixing)
        grad_own: list[Tensor] = []
        grad_shared = torch.zeros_like(shared)
        mixed_dot_shared = _channel_dot(grad_mixed, shared, other)
        for t, (x, grad) in enumerate(zip(own, grad_picked, strict=True)):
            mask = (gates[t] > 0.5).view(ctx.shape)
            grad = torch.addcmul(grad, grad_mixed, mixing[t].view(ctx.shape))
            grad_gates[t] = _channel_dot(grad, x, other) - _channel_dot(grad, shared, other)
            grad_mixing[t] = torch.where(mask.flatten(), _channel_dot(grad_mixed, x, other), mixed_dot_shared)
            grad_own.append(torch.where(mask, grad, 0))
            grad_shared += torch.where(mask, 0, grad)
        return None, grad_gates, grad_mixing, *grad_own, grad_shared


def _channel_dot(a: Tensor, b: Tensor, dims: list[int]) -> Tensor:
    product: Tensor = a * b
    return product.sum(dims)
