"""The gate of one unit: which channels each task takes from its own branch, and what the shared stream mixes.

With φ_t the unit's features in the branch of task t, ψ its features in the shared branch, g_t the gates and w_t the
mixing weights, all per channel:

    φ′_t = g_t φ_t + (1 - g_t) ψ        (eq. 2)
    ψ′   = Σ_t w_t φ′_t                 (eq. 3)
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

Mixing = Literal["softmax", "hard"]

_HARD_BETA_STD = 0.01
"""Deviation of the initial β of hard mixing: every task wins somewhere, and a few training steps outweigh it."""


class Gate(nn.Module):
    """Gate logits α and mixing logits β of one gated unit (eq. 2 and 3, docs/paper.md, notes 1 and 2).

    Args:
        tasks: T, the number of tasks.
        channels: C, the number of the unit's channels.
        dim: The channel dimension of the unit's output.
        group_size: The number of neighbouring channels that share one gate logit.
        gate_init: The mean of the initial α (docs/paper.md, note 6). Positive: tasks start on their own features,
            which is where the paper's initialisation from single-task networks leaves them.
        gate_init_std: The standard deviation of the initial α. Without spread every gate starts on the same side, and
            a shared branch that no task picks gets no gradient.
        mixing: `softmax` is eq. 3; `hard` passes on the picked feature of the task with the largest β.

    Attributes:
        alpha: The gate logits, (T, ceil(C / group_size)). Positive means task-specific.
        beta: The mixing logits, (T, C), or shaped like `alpha` for hard mixing.
        hard: Whether the shared stream takes one task's feature and no mix.
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
        self.channels = channels
        self.dim = dim
        self.group_size = group_size
        self.hard = mixing == "hard"
        groups = math.ceil(channels / group_size)
        self.alpha = nn.Parameter(torch.empty(tasks, groups).normal_(gate_init, gate_init_std))
        # With equal β the first task would win everywhere.
        beta = torch.empty(tasks, groups).normal_(0.0, _HARD_BETA_STD) if self.hard else torch.zeros(tasks, channels)
        self.beta = nn.Parameter(beta)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves or converts the gate, see nn.Module.

        A hard choice must not depend on the dtype. So where rounding makes two β equal, the winner is lifted by one
        unit in the last place.
        """
        # (1, groups)
        before = self._largest().cpu() if self.hard and not self.beta.is_meta else None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch does not annotate it
        if before is None or self.beta.is_meta:
            return self
        changed = self._largest().cpu() != before
        if changed.any():
            beta = self.beta.detach().cpu()
            highest = beta.gather(0, before)
            above = torch.nextafter(highest, torch.full_like(highest, math.inf))
            lifted = beta.scatter(0, before, torch.where(changed, above, highest))
            self.beta.detach().copy_(lifted)
        return self

    def _largest(self) -> Tensor:
        """Returns the task with the largest β, the first of equals, (1, C) or (1, groups)."""
        return self.beta.detach().argmax(0, keepdim=True)

    def per_channel(self, groups: Tensor) -> Tensor:
        """Repeats numbers of groups, (T, groups), for the channels of each group, (T, C)."""
        if self.group_size == 1:
            return groups
        # The last group may have fewer channels.
        return groups.repeat_interleave(self.group_size, dim=1)[:, : self.channels]

    def decisions(self) -> Tensor:
        """Returns where each task takes its own channel, (T, C) bool."""
        # α > 0 is σ(α) > 0.5 in every dtype; comparing the sigmoid would flip gates between float32 and float64.
        return self.per_channel(self.alpha.detach() > 0)

    def probabilities(self) -> Tensor:
        """Returns σ(α), (T, C), differentiable."""
        return self.per_channel(self.alpha.sigmoid())

    def mixing(self) -> Tensor:
        """Returns the weights of the tasks in the shared stream, (T, C), differentiable.

        They are the softmax of β over the tasks. For hard mixing they are 1 for the winner and 0 for the others, with
        the gradient of the softmax.
        """
        soft = self.beta.softmax(0)
        if not self.hard:
            return soft
        winner = torch.zeros_like(soft).scatter_(0, self._largest(), 1.0)
        return self.per_channel(winner + (soft - soft.detach()))

    def winners(self) -> Tensor:
        """Returns the task with the largest β, the first of equals, (C,) int64."""
        largest = self._largest()
        return (self.per_channel(largest) if self.hard else largest)[0]

    def contributions(self) -> list[float]:
        """Returns the share of channels in which each task has the largest mixing weight (figure 3 of the paper)."""
        winners = self.winners()
        return [float((winners == t).double().mean()) for t in range(self.beta.shape[0])]

    def forward(self, *streams: Tensor) -> tuple[Tensor, ...]:
        """Picks and mixes: φ_1 … φ_T, ψ -> φ′_1 … φ′_T, ψ′.

        Args:
            streams: T+1 feature maps of one shape, with C channels along `dim`; the shared one is last.
        """
        soft = self.probabilities()
        # Straight through: 0 or 1 forwards, the gradient of σ(α) backwards.
        gates = self.decisions().to(soft.dtype) + (soft - soft.detach())
        # Under autocast the streams are narrower than the gates.
        dtype = streams[0].dtype
        outputs: tuple[Tensor, ...] = _SelectAndMix.apply(self.dim, gates.to(dtype), self.mixing().to(dtype), *streams)
        return outputs


_CHUNK_ELEMENTS = 2**17
"""Elements that the CPU works on at a time, so that every operand is fetched from memory once (half a MB each)."""


class _SelectAndMix(torch.autograd.Function):
    """Eq. 2 and 3 in few passes over memory.

    A gate is 0 or 1, and `lerp` returns its end points exactly there. Gradients of the gates and of the mixing weights
    are inner products over all dimensions but the channels.
    """

    @staticmethod
    def forward(ctx: Any, dim: int, gates: Tensor, mixing: Tensor, *streams: Tensor) -> tuple[Tensor, ...]:
        # (1, …, C, …, 1): what belongs to the channels, lined up with a feature map.
        shape = [1] * streams[0].dim()
        shape[dim] = -1
        g = [row.view(shape) for row in gates]
        # The mix is a chain of interpolations, so that the mix of equal values is that value, bit for bit. Step t goes
        # from the mix of the tasks before t towards task t.
        tiny = torch.finfo(mixing.dtype).tiny
        steps = mixing / mixing.cumsum(0).clamp(min=tiny)
        step = [row.view(shape) for row in steps]
        outputs = [torch.empty_like(x) for x in streams]
        for (*phi, psi), (*picked, mixed) in zip(chunks(streams), chunks(outputs), strict=True):
            for t, phi_t in enumerate(phi):
                torch.lerp(psi, phi_t, g[t], out=picked[t])
            so_far = picked[0]
            for t in range(1, len(picked)):
                so_far = torch.lerp(so_far, picked[t], step[t], out=mixed)
            # With one task, the mix is its picked feature.
            if so_far is not mixed:
                mixed.copy_(so_far)
        ctx.shape = shape
        ctx.save_for_backward(gates, mixing, *streams)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gates, mixing, *streams = ctx.saved_tensors
        if torch.is_grad_enabled():  # second derivatives are wanted
            return None, *_differentiable_backward(ctx.shape, gates, mixing, streams, grads)
        g = [row.view(ctx.shape) for row in gates]
        w = [row.view(ctx.shape) for row in mixing]
        closed = [1 - x for x in g]
        # ∂ψ′/∂φ_t = g_t w_t, and ∂ψ′/∂ψ = Σ_t (1 - g_t) w_t.
        phi_in_mix = [x * y for x, y in zip(g, w, strict=True)]
        psi_in_mix = sum((x * y for x, y in zip(closed, w, strict=True)), torch.zeros_like(w[0]))
        others = [d for d, size in enumerate(ctx.shape) if size != -1]
        grad_gates = torch.zeros_like(gates)
        grad_mixing = torch.zeros_like(mixing)
        results = [torch.empty_like(x) for x in streams]
        scratch = [torch.empty_like(x) for x in next(chunks(streams))[:2]]
        for values, incoming, outgoing in zip(chunks(streams), chunks(grads), chunks(results), strict=True):
            *phi, psi = values
            *grad_picked, grad_mixed = incoming
            *grad_phi, grad_psi = outgoing
            # The last chunk may be smaller.
            difference, product = (x[: len(psi)] for x in scratch)
            torch.mul(grad_mixed, psi_in_mix, out=grad_psi)
            # Σ dψ′ ψ, (C,)
            mixed_psi = torch.mul(grad_mixed, psi, out=product).sum(others)
            for t, (phi_t, grad) in enumerate(zip(phi, grad_picked, strict=True)):
                torch.mul(grad, g[t], out=grad_phi[t]).addcmul_(grad_mixed, phi_in_mix[t])
                grad_psi.addcmul_(grad, closed[t])
                # ∂φ′_t/∂g_t = φ_t - ψ, which also reaches the mix with the weight w_t.
                torch.sub(phi_t, psi, out=difference)
                mixed_change = torch.mul(grad_mixed, difference, out=product).sum(others)
                picked_change = torch.mul(grad, difference, out=product).sum(others)
                grad_gates[t] += picked_change + mixing[t] * mixed_change
                # ∂ψ′/∂w_t = φ′_t = ψ + g_t (φ_t - ψ).
                grad_mixing[t] += mixed_psi + gates[t] * mixed_change
        return None, grad_gates, grad_mixing, *results


def _differentiable_backward(
    shape: list[int], gates: Tensor, mixing: Tensor, streams: Sequence[Tensor], grads: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Returns the gradients of eq. 2 and 3 in operators that have derivatives themselves."""
    *phi, psi = streams
    picked = [psi + row.view(shape) * (x - psi) for row, x in zip(gates, phi, strict=True)]
    mixed = torch.stack([row.view(shape) * x for row, x in zip(mixing, picked, strict=True)]).sum(0)
    inputs = [gates, mixing, *streams]
    wanted = [x for x in inputs if x.requires_grad]
    found = torch.autograd.grad([*picked, mixed], wanted, list(grads), create_graph=True)
    by_input = dict(zip(map(id, wanted), found, strict=True))
    return tuple(by_input.get(id(x)) for x in inputs)


def chunks(tensors: Sequence[Tensor], elements: int | None = None) -> Iterator[tuple[Tensor, ...]]:
    """Cuts tensors alike along the batch, small enough for the CPU's caches.

    Args:
        tensors: Tensors of one batch size, batch first.
        elements: The number of elements of the first tensor's pieces.

    Returns:
        An iterator over the pieces of all tensors, as views. On other devices there is one piece.
    """
    first = tensors[0]
    is_whole = first.device.type != "cpu" or first.dim() < 3
    size = len(first)
    if not is_whole:
        size = max(1, (elements or _CHUNK_ELEMENTS) * len(first) // max(1, first.numel()))
    return zip(*(x.split(max(1, size)) for x in tensors), strict=True)
