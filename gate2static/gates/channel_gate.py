"""The gate of one unit: which channels a task takes from its own branch, and what the shared stream mixes."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

Mixing = Literal["softmax", "hard"]

_HARD_BETA_STD = 0.01
"""Of the initial β of hard mixing: enough that every task wins somewhere, too little to outweigh a few steps."""


class Gate(nn.Module):
    """Gate logits α and mixing logits β of one gated unit (eq. 2 and 3, docs/paper.md, notes 1 and 2).

    Args:
        tasks: T.
        channels: C.
        dim: the channel dimension of the unit's output.
        group_size: neighbouring channels that share one gate logit.
        gate_init: mean of the initial α (docs/paper.md, note 6). Positive: tasks start on their own features, which
            is where the paper's initialisation from single-task networks leaves them.
        gate_init_std: standard deviation of the initial α. Without spread every gate starts on the same side, and a
            shared branch that no task picks gets no gradient.
        mixing: `softmax` is eq. 3; `hard` passes on the picked feature of the task with the largest β.

    Attributes:
        alpha: gate logits, (T, ceil(C / group_size)); positive means task-specific.
        beta: mixing logits, (T, C); of hard mixing shaped like `alpha`.
        hard: whether the shared stream takes one task's feature, not a mix.
    """

    def __init__(
        self,
        *,
        tasks: int,
        channels: int,
        dim: int,
        group_size: int,
        gate_init: float,
        gate_init_std: float,
        mixing: Mixing = "softmax",
    ) -> None:
        super().__init__()
        self.channels, self.dim, self.group_size, self.hard = channels, dim, group_size, mixing == "hard"
        groups = math.ceil(channels / group_size)
        self.alpha = nn.Parameter(torch.empty(tasks, groups).normal_(gate_init, gate_init_std))
        # With equal β the first task would win everywhere.
        beta = torch.empty(tasks, groups).normal_(0.0, _HARD_BETA_STD) if self.hard else torch.zeros(tasks, channels)
        self.beta = nn.Parameter(beta)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves and converts, see nn.Module; rounding may make two β equal, which must not change who wins."""
        before = self._largest().cpu() if self.hard and not self.beta.is_meta else None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch does not annotate it
        if before is None or self.beta.is_meta or not (tied := self._largest().cpu() != before).any():
            return self
        beta = self.beta.detach().cpu()
        highest = beta.gather(0, before)
        above = torch.nextafter(highest, torch.full_like(highest, math.inf))
        self.beta.detach().copy_(beta.scatter(0, before, torch.where(tied, above, highest)))
        return self

    def _largest(self) -> Tensor:
        """The row of the largest β, the first of equals; shaped like one row of it."""
        return self.beta.detach().argmax(0, keepdim=True)

    def per_channel(self, groups: Tensor) -> Tensor:
        """(T, groups) -> (T, C)."""
        if self.group_size == 1:
            return groups
        return groups.repeat_interleave(self.group_size, dim=1)[:, : self.channels]

    def decisions(self) -> Tensor:
        """(T, C) bool, True where the task takes its own channel. α > 0 is σ(α) > 0.5 in every dtype."""
        return self.per_channel(self.alpha.detach() > 0)

    def probabilities(self) -> Tensor:
        """σ(α), (T, C), differentiable."""
        return self.per_channel(self.alpha.sigmoid())

    def mixing(self) -> Tensor:
        """What the tasks weigh in the shared stream, (T, C), differentiable.

        The softmax of β over the tasks; of hard mixing 1 for the winner and 0 for the others, with the softmax's
        gradient.
        """
        soft = self.beta.softmax(0)
        if not self.hard:
            return soft
        winner = torch.zeros_like(soft).scatter_(0, self._largest(), 1.0)
        return self.per_channel(winner + (soft - soft.detach()))

    def winners(self) -> Tensor:
        """(C,) int64, the task with the largest β; the first of equals."""
        return (self.per_channel(self._largest()) if self.hard else self._largest())[0]

    def contributions(self) -> list[float]:
        """Share of channels where each task has the largest mixing weight (figure 3 of the paper)."""
        winners = self.winners()
        return [float((winners == t).double().mean()) for t in range(self.beta.shape[0])]

    def forward(self, *streams: Tensor) -> tuple[Tensor, ...]:
        """T+1 feature maps φ_1 … φ_T, ψ -> φ′_1 … φ′_T, ψ′, all of one shape with C channels at `dim`."""
        soft = self.probabilities()
        straight_through = self.decisions().to(soft.dtype) + (soft - soft.detach())
        # Under autocast the streams are narrower than the gates.
        gates, mixing = (x.to(streams[0].dtype) for x in (straight_through, self.mixing()))
        outputs: tuple[Tensor, ...] = _SelectAndMix.apply(self.dim, gates, mixing, *streams)
        return outputs


_CHUNK_ELEMENTS = 2**17
"""Elements that the CPU works on at a time, so that every operand is fetched from memory once (half a MB each)."""


class _SelectAndMix(torch.autograd.Function):
    """Eq. 2 and 3 in few passes over memory.

    A gate is 0 or 1, and `lerp` returns its end points exactly there. Gradients of the gates and of the mixing weights
    are inner products over all but the channels.
    """

    @staticmethod
    def forward(ctx: Any, dim: int, gates: Tensor, mixing: Tensor, *streams: Tensor) -> tuple[Tensor, ...]:
        shape = [1] * streams[0].dim()
        shape[dim] = -1
        # The mix is a chain of interpolations, so that the mix of equal values is that value, bit for bit.
        tiny = torch.finfo(mixing.dtype).tiny
        g, step = ([x.view(shape) for x in rows] for rows in (gates, mixing / mixing.cumsum(0).clamp(min=tiny)))
        outputs = [torch.empty_like(x) for x in streams]
        for (*own, shared), (*picked, mixed) in zip(chunks(streams), chunks(outputs), strict=True):
            for t, x in enumerate(own):
                torch.lerp(shared, x, g[t], out=picked[t])
            so_far = picked[0]
            for t in range(1, len(picked)):
                so_far = torch.lerp(so_far, picked[t], step[t], out=mixed)
            if so_far is not mixed:
                mixed.copy_(so_far)
        ctx.shape = shape
        ctx.save_for_backward(gates, mixing, *streams)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gates, mixing, *streams = ctx.saved_tensors
        g, w = [x.view(ctx.shape) for x in gates], [x.view(ctx.shape) for x in mixing]
        closed, open_mixed = [1 - x for x in g], [x * y for x, y in zip(g, w, strict=True)]
        shared_mixed = sum((c * x for c, x in zip(closed, w, strict=True)), torch.zeros_like(w[0]))
        others = [d for d, size in enumerate(ctx.shape) if size != -1]
        grad_gates, grad_mixing = torch.zeros_like(gates), torch.zeros_like(mixing)
        results = [torch.empty_like(x) for x in streams]
        scratch = [torch.empty_like(x) for x in next(chunks(streams))[:2]]
        for values, incoming, outgoing in zip(chunks(streams), chunks(grads), chunks(results), strict=True):
            (*own, shared), (*grad_picked, grad_mixed), (*grad_own, grad_shared) = values, incoming, outgoing
            difference, product = (x[: len(shared)] for x in scratch)
            torch.mul(grad_mixed, shared_mixed, out=grad_shared)
            mixed_shared = torch.mul(grad_mixed, shared, out=product).sum(others)
            for t, (x, grad) in enumerate(zip(own, grad_picked, strict=True)):
                torch.mul(grad, g[t], out=grad_own[t]).addcmul_(grad_mixed, open_mixed[t])
                grad_shared.addcmul_(grad, closed[t])
                torch.sub(x, shared, out=difference)
                mixed_change = torch.mul(grad_mixed, difference, out=product).sum(others)
                grad_gates[t] += torch.mul(grad, difference, out=product).sum(others) + mixing[t] * mixed_change
                grad_mixing[t] += mixed_shared + gates[t] * mixed_change
        return None, grad_gates, grad_mixing, *results


def chunks(tensors: Sequence[Tensor], elements: int | None = None) -> Iterator[tuple[Tensor, ...]]:
    """Tensors cut alike along the batch, small enough for the CPU's caches; whole on other devices."""
    first = tensors[0]
    whole = first.device.type != "cpu" or first.dim() < 3
    size = len(first) if whole else max(1, (elements or _CHUNK_ELEMENTS) * len(first) // max(1, first.numel()))
    return zip(*(x.split(max(1, size)) for x in tensors), strict=True)
