"""The gate of a unit some of whose decisions are settled: it reads and makes only what still differs.

It makes one tensor of *rows*, a row being a channel of one or more streams. Tasks that are settled on the shared
feature have ψ's row in common, so whatever acts channel by channel afterwards acts on it once.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gate2static.gates.gating import Gate, chunks

Bools = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Demand:
    """Which channels of each stream a unit computes, and which rows its gate makes of them.

    The rows are ψ's that tasks or the shared stream pass on, then each task's own, then the mixed ones.

    Attributes:
        settled: (T, C), the gates that are settled.
        specific: (T, C), the sides of all gates.
        read: (T+1,), the streams that are read behind the gate.
    """

    settled: Bools
    specific: Bools
    read: Bools

    @property
    def tasks(self) -> int:
        """T."""
        return len(self.settled)

    @property
    def shared(self) -> Bools:
        """(T, C), where a task takes ψ for good."""
        shared: Bools = self.settled & ~self.specific
        return shared

    @cached_property
    def undecided(self) -> list[Ids]:
        """For each task, the channels of which both φ_t and ψ are needed."""
        return [np.flatnonzero(~self.settled[t] & needed) for t, needed in enumerate(self._needed)]

    @cached_property
    def computed(self) -> list[Ids]:
        """For each stream, the channels that its layer must compute: a task's undecided ones, then its own for good."""
        settled_own = [np.flatnonzero((self.settled & self.specific)[t] & n) for t, n in enumerate(self._needed)]
        own = [np.concatenate(both) for both in zip(self.undecided, settled_own, strict=True)]
        takes_shared = (self._needed[:, None] & ~(self.settled & self.specific)).any(0)
        return [*own, np.flatnonzero(takes_shared)]

    @cached_property
    def mixed(self) -> Ids:
        """Channels of which the shared stream goes on as more than ψ."""
        return np.flatnonzero(~self.shared.all(0) & self.read[-1])

    @cached_property
    def passed_on(self) -> Ids:
        """Channels of ψ that some stream goes on with."""
        by_tasks = (self.shared & self.read[:-1, None]).any(0)
        return np.flatnonzero(by_tasks | (self.shared.all(0) & self.read[-1]))

    @cached_property
    def starts(self) -> list[int]:
        """Where the rows of ψ, of each task and of the mix start; last, how many rows there are."""
        sizes = [len(ids) for ids in (self.passed_on, *self.computed[:-1], self.mixed)]
        return [0, *np.cumsum(sizes).tolist()]

    @cached_property
    def views(self) -> Ids:
        """(T+1, C), the row that is each stream's channel; -1 in streams that nobody reads."""
        views = np.full((self.tasks + 1, self.settled.shape[1]), -1)
        for stream in np.flatnonzero(self.read):
            views[stream, self.passed_on] = np.arange(len(self.passed_on))
            own = self.mixed if stream == self.tasks else self.computed[stream]
            views[stream, own] = self.starts[stream + 1] + np.arange(len(own))
        return views

    @property
    def _needed(self) -> Bools:
        """(T,), whether a task's picked feature is read, by the task or by the mix."""
        needed: Bools = self.read[:-1] | self.read[-1]
        return needed


class SettledGate(nn.Module):
    """Eq. 2 and 3 where they still matter.

    Args:
        gate: the unit's gate, whose parameters are used.
        demand: what is computed and made.

    Attributes:
        unused: parameters that no longer take part; they get zero gradients, as they would get without settling.
    """

    def __init__(self, gate: Gate, demand: Demand) -> None:
        super().__init__()
        self.gate, self.unused = gate, nn.ParameterList()
        self._index = _Index(demand, gate.dim, gate.alpha.device)

    def forward(self, *streams: Tensor) -> Tensor:
        """The computed channels of the streams that have any, as `Demand.computed` has them -> the rows."""
        soft = self.gate.probabilities()
        straight_through = self.gate.decisions().to(soft.dtype) + (soft - soft.detach())
        mixing = self.gate.mixing()
        if len(self.unused):
            mixing = _WithUnused.apply(mixing, *self.unused)
        gates, mixing = (x.to(streams[0].dtype) for x in (straight_through, mixing))
        rows: Tensor = _SelectAndMixRows.apply(self._index, gates, mixing, *streams)
        return rows


class _WithUnused(torch.autograd.Function):
    """Gives zero gradients to parameters, so that optimisers and distributed training see what they always see."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *unused: Tensor) -> Tensor:
        ctx.unused = unused
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return grad, *(torch.zeros_like(p) for p in ctx.unused)


class _Index:
    """A demand as positions in tensors."""

    def __init__(self, demand: Demand, dim: int, device: torch.device) -> None:
        def ids(wanted: Ids, among: Ids | None = None) -> Tensor:
            if among is not None:
                wanted = np.flatnonzero(among == wanted[:, None]) % max(1, len(among))
            return torch.from_numpy(wanted).to(device)

        *own, psi = demand.computed
        self.dim, self.starts = dim, demand.starts
        self.present = [s for s, channels in enumerate(demand.computed) if len(channels)]
        self.own = {t: ids(channels) for t, channels in enumerate(own) if len(channels)}
        self.undecided = {t: ids(demand.undecided[t], psi) for t in self.own}
        self.passed_on = ids(demand.passed_on, psi)
        self.mixes = len(demand.mixed) > 0
        self.in_mix = {t: ids(own[t], demand.mixed) for t in self.own} if self.mixes else {}
        # Where the mix has ψ in it, and for which tasks.
        with_psi = demand.mixed[demand.shared[:, demand.mixed].any(0)]
        self.psi_in_mix, self.mixed_psi = ids(with_psi, demand.mixed), ids(with_psi, psi)
        self.psi_channels = ids(with_psi)
        self.psi_tasks = torch.from_numpy(demand.shared[:, with_psi]).to(device)


class _SelectAndMixRows(torch.autograd.Function):
    """`_SelectAndMix` on the channels that are left; the same sums in another order."""

    @staticmethod
    def forward(ctx: Any, index: _Index, gates: Tensor, mixing: Tensor, *streams: Tensor) -> Tensor:
        dim = index.dim
        ctx.shape = [1] * streams[0].dim()
        ctx.shape[dim] = -1
        ctx.index = index
        ctx.save_for_backward(gates, mixing, *streams)
        own_gates, weights, psi_weight = _factors(index, gates, mixing, ctx.shape)
        rows = _empty(streams[0], dim, index.starts[-1])
        for out, *parts in chunks((rows, *streams)):
            phi = dict(zip(index.present, parts, strict=True))
            psi = phi.get(len(gates))
            if psi is not None and len(index.passed_on):
                out.narrow(dim, 0, len(index.passed_on)).copy_(psi.index_select(dim, index.passed_on))
            mix = out.narrow(dim, index.starts[-2], index.starts[-1] - index.starts[-2])
            mix.zero_()
            if psi is not None and len(index.psi_in_mix):
                mix.index_copy_(dim, index.psi_in_mix, psi.index_select(dim, index.mixed_psi).mul_(psi_weight))
            for t in index.own:
                picked = out.narrow(dim, index.starts[t + 1], phi[t].shape[dim]).copy_(phi[t])
                if undecided := len(index.undecided[t]):
                    assert psi is not None
                    part = picked.narrow(dim, 0, undecided)
                    torch.lerp(psi.index_select(dim, index.undecided[t]), part, own_gates[t], out=part)
                if index.mixes:
                    mix.index_add_(dim, index.in_mix[t], picked * weights[t])
        return rows

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor) -> tuple[Tensor | None, ...]:
        gates, mixing, *streams = ctx.saved_tensors
        index: _Index = ctx.index
        dim, starts = index.dim, index.starts
        own_gates, weights, psi_weight = _factors(index, gates, mixing, ctx.shape)
        others = [d for d, size in enumerate(ctx.shape) if size != -1]
        grad_gates, grad_mixing = torch.zeros_like(gates), torch.zeros_like(mixing)
        results = [torch.empty_like(x) for x in streams]
        for grad, *both in chunks((grad_rows, *streams, *results)):
            phi = dict(zip(index.present, both[: len(streams)], strict=True))
            grad_phi = dict(zip(index.present, both[len(streams) :], strict=True))
            psi, grad_psi = phi.get(len(gates)), grad_phi.get(len(gates))
            grad_mix = grad.narrow(dim, starts[-2], starts[-1] - starts[-2])
            if psi is not None and grad_psi is not None:
                grad_psi.zero_()
                if len(index.passed_on):
                    grad_psi.index_copy_(dim, index.passed_on, grad.narrow(dim, 0, len(index.passed_on)))
                if len(index.psi_in_mix):
                    part = grad_mix.index_select(dim, index.psi_in_mix)
                    products = (part * psi.index_select(dim, index.mixed_psi)).sum(others)
                    grad_mixing[:, index.psi_channels] += products * index.psi_tasks
                    grad_psi.index_add_(dim, index.mixed_psi, part.mul_(psi_weight))
            for t, channels in index.own.items():
                out, x = grad_phi[t], phi[t]
                out.copy_(grad.narrow(dim, starts[t + 1], x.shape[dim]))
                mixed = grad_mix.index_select(dim, index.in_mix[t]) if index.mixes else None
                if mixed is not None:
                    out.add_(mixed * weights[t])
                    grad_mixing[t].index_add_(0, channels, (mixed * x).sum(others))
                if not (undecided := len(index.undecided[t])):
                    continue
                assert psi is not None
                assert grad_psi is not None
                part, closed = out.narrow(dim, 0, undecided), 1 - own_gates[t]
                below = psi.index_select(dim, index.undecided[t])
                change = x.narrow(dim, 0, undecided) - below
                grad_gates[t].index_add_(0, channels[:undecided], (part * change).sum(others))
                if mixed is not None:
                    missed = (mixed.narrow(dim, 0, undecided) * change).sum(others)
                    grad_mixing[t].index_add_(0, channels[:undecided], missed * -closed.view(-1))
                grad_psi.index_add_(dim, index.undecided[t], part * closed)
                part.mul_(own_gates[t])
        return None, grad_gates, grad_mixing, *results


def _factors(
    index: _Index, gates: Tensor, mixing: Tensor, shape: list[int]
) -> tuple[dict[int, Tensor], dict[int, Tensor], Tensor]:
    """Of each task the gates of its undecided channels and the mixing weights of its own; ψ's weight in the mix."""
    own_gates = {t: gates[t][ids[: len(index.undecided[t])]].view(shape) for t, ids in index.own.items()}
    weights = {t: mixing[t][ids].view(shape) for t, ids in index.own.items()}
    return own_gates, weights, (mixing[:, index.psi_channels] * index.psi_tasks).sum(0).view(shape)


def _empty(like: Tensor, dim: int, size: int) -> Tensor:
    """A tensor with another size along a dimension, laid out alike."""
    shape = list(like.shape)
    shape[dim] = size
    last = like.dim() == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last)
    return like.new_empty(shape).to(memory_format=torch.channels_last) if last else like.new_empty(shape)
