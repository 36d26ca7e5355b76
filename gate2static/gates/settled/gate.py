"""The gate of a unit some of whose decisions are settled: it reads and makes only what still differs.

It makes one tensor of *rows*, a row being a channel of one or more streams. Tasks that are settled on the shared
feature have ψ's row in common, so whatever acts channel by channel afterwards acts on it once.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gate2static.gates.channel_gate import Gate, chunks
from gate2static.gates.settled.demand import Demand, Ids

_Factors = dict[int, Tensor]

_CHUNK_ELEMENTS = 2**19
"""Rows are worked on in larger pieces than whole streams: there are more steps to each piece."""


class SettledGate(nn.Module):
    """Eq. 2 and 3 where they still matter.

    Args:
        gate: the unit's gate, whose parameters are used.
        demand: what is computed and made.

    Attributes:
        unused: parameters that no longer take part; they get zero gradients, as most would without settling.
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
    """A demand as positions in tensors; None stands for all positions in order."""

    def __init__(self, demand: Demand, dim: int, device: torch.device) -> None:
        def ids(wanted: Ids, among: Ids) -> Tensor | None:
            if np.array_equal(wanted, among):
                return None
            return torch.from_numpy(np.flatnonzero(among == wanted[:, None]) % max(1, len(among))).to(device)

        *own, psi = demand.computed
        mixed_psi = np.intersect1d(demand.mixed, psi)
        self.dim, self.starts, self.tasks = dim, demand.starts, demand.tasks
        self.present = [s for s, channels in enumerate(demand.computed) if len(channels)]
        self.own = [t for t, channels in enumerate(own) if len(channels)]
        self.undecided = {t: len(demand.undecided[t]) for t in self.own}
        self.below = {t: ids(demand.undecided[t], psi) for t in self.own}
        self.passed_on, self.mixes = ids(demand.passed_on, psi), len(demand.mixed) > 0
        self.in_mix = {t: ids(own[t], demand.mixed) for t in self.own} if self.mixes else {}
        self.psi_in_mix, self.mixed_psi = ids(mixed_psi, demand.mixed), ids(mixed_psi, psi)
        # One index takes what the work needs of gates and mixing weights, (T, C).
        channels = demand.settled.shape[1]
        flat = [t * channels + own[t] for t in self.own]
        self.sizes = [len(ids) for ids in flat]
        self.flat = torch.from_numpy(np.concatenate([*flat, np.empty(0, np.int64)])).to(device)
        self.flat_channels = self.flat % channels
        self.psi_channels = torch.from_numpy(mixed_psi).to(device)
        self.psi_tasks = torch.from_numpy(demand.shared[:, mixed_psi]).to(device)

    def factors(self, gates: Tensor, mixing: Tensor, shape: list[int]) -> tuple[_Factors, _Factors, Tensor]:
        """The gates and mixing weights of each task's own channels, and ψ's weight in the mix."""
        own = [dict(zip(self.own, x.take(self.flat).split(self.sizes), strict=True)) for x in (gates, mixing)]
        undecided, weights = own
        psi = (mixing.index_select(1, self.psi_channels) * self.psi_tasks).sum(0)
        return (
            {t: x[: self.undecided[t]].view(shape) for t, x in undecided.items()},
            {t: x.view(shape) for t, x in weights.items()},
            psi.view(shape),
        )


def _take(x: Tensor, dim: int, index: Tensor | None) -> Tensor:
    return x if index is None else x.index_select(dim, index)


def _put(x: Tensor, dim: int, index: Tensor | None, values: Tensor) -> None:
    if index is None:
        x.copy_(values)
    else:
        x.zero_().index_add_(dim, index, values)  # which is faster than index_copy_


def _add_product(x: Tensor, dim: int, index: Tensor | None, values: Tensor, weights: Tensor) -> None:
    if index is None:
        x.addcmul_(values, weights)
    else:
        x.index_add_(dim, index, values * weights)


class _SelectAndMixRows(torch.autograd.Function):
    """`_SelectAndMix` on the channels that are left; the same sums in another order."""

    @staticmethod
    def forward(ctx: Any, index: _Index, gates: Tensor, mixing: Tensor, *streams: Tensor) -> Tensor:
        dim, starts = index.dim, index.starts
        ctx.shape = [1] * streams[0].dim()
        ctx.shape[dim] = -1
        ctx.index = index
        ctx.save_for_backward(gates, mixing, *streams)
        own_gates, weights, psi_weight = index.factors(gates, mixing, ctx.shape)
        rows = _empty(streams[0], dim, starts[-1])
        for out, *parts in chunks((rows, *streams), _CHUNK_ELEMENTS):
            phi = dict(zip(index.present, parts, strict=True))
            psi, mix = phi.get(index.tasks), out.narrow(dim, starts[-2], starts[-1] - starts[-2])
            if psi is not None:
                _copy_taken(out.narrow(dim, 0, starts[1]), dim, index.passed_on, psi)
                if index.mixes:
                    _put(mix, dim, index.psi_in_mix, _take(psi, dim, index.mixed_psi) * psi_weight)
            else:
                mix.zero_()
            for t in index.own:
                picked, x, undecided = out.narrow(dim, starts[t + 1], phi[t].shape[dim]), phi[t], index.undecided[t]
                if undecided:
                    assert psi is not None
                    below = _take(psi, dim, index.below[t])
                    decided = picked.narrow(dim, 0, undecided)
                    torch.lerp(below, x.narrow(dim, 0, undecided), own_gates[t], out=decided)
                if rest := x.shape[dim] - undecided:
                    picked.narrow(dim, undecided, rest).copy_(x.narrow(dim, undecided, rest))
                if index.mixes:
                    _add_product(mix, dim, index.in_mix[t], picked, weights[t])
        return rows

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor) -> tuple[Tensor | None, ...]:
        gates, mixing, *streams = ctx.saved_tensors
        index: _Index = ctx.index
        dim, starts = index.dim, index.starts
        own_gates, weights, psi_weight = index.factors(gates, mixing, ctx.shape)
        others = [d for d, size in enumerate(ctx.shape) if size != -1]
        closed = 1 - gates.take(index.flat)
        kept = dict(zip(index.own, closed.split(index.sizes), strict=True))
        # Of each task's own channels: Σ dφ′ (φ - ψ) and Σ dψ′ φ; and Σ dψ′ ψ.
        sums = [[torch.zeros_like(weights[t]).view(-1) for t in index.own] for _ in range(2)]
        psi_sums = torch.zeros_like(psi_weight).view(-1)
        results = [torch.empty_like(x) for x in streams]
        for grad, *both in chunks((grad_rows, *streams, *results), _CHUNK_ELEMENTS):
            phi = dict(zip(index.present, both[: len(streams)], strict=True))
            grad_phi = dict(zip(index.present, both[len(streams) :], strict=True))
            psi, grad_psi = phi.get(index.tasks), grad_phi.get(index.tasks)
            grad_mix = grad.narrow(dim, starts[-2], starts[-1] - starts[-2])
            if psi is not None and grad_psi is not None:
                _put(grad_psi, dim, index.passed_on, grad.narrow(dim, 0, starts[1]))
                if index.mixes:
                    part = _take(grad_mix, dim, index.psi_in_mix)
                    psi_sums += (part * _take(psi, dim, index.mixed_psi)).sum(others)
                    _add_product(grad_psi, dim, index.mixed_psi, part, psi_weight)
            for position, t in enumerate(index.own):
                out, x, undecided = grad_phi[t], phi[t], index.undecided[t]
                picked = grad.narrow(dim, starts[t + 1], x.shape[dim])
                if index.mixes:
                    mixed = _take(grad_mix, dim, index.in_mix[t])
                    torch.addcmul(picked, mixed, weights[t], out=out)
                    sums[1][position] += (mixed * x).sum(others)
                else:
                    out.copy_(picked)
                if not undecided:
                    continue
                assert psi is not None
                assert grad_psi is not None
                decided = out.narrow(dim, 0, undecided)
                change = x.narrow(dim, 0, undecided) - _take(psi, dim, index.below[t])
                sums[0][position][:undecided] += change.mul_(decided).sum(others)
                _add_product(grad_psi, dim, index.below[t], decided, kept[t][:undecided].view(ctx.shape))
                decided.mul_(own_gates[t])
        found, with_own = (torch.cat(parts) if parts else gates.new_empty(0) for parts in sums)
        # What a task passes into the mix is φ where its gate is open and ψ where it is closed.
        with_psi = torch.zeros_like(gates[0]).index_copy_(0, index.psi_channels, psi_sums).take(index.flat_channels)
        grad_gates = torch.zeros_like(gates).put_(index.flat, found)
        grad_mixing = torch.zeros_like(mixing).put_(index.flat, torch.where(closed > 0, with_psi, with_own))
        grad_mixing.index_add_(1, index.psi_channels, psi_sums * index.psi_tasks)
        return None, grad_gates, grad_mixing, *results


def _copy_taken(out: Tensor, dim: int, index: Tensor | None, source: Tensor) -> None:
    if index is None:
        out.copy_(source)
    else:
        torch.index_select(source, dim, index, out=out)


def _empty(like: Tensor, dim: int, size: int) -> Tensor:
    """A tensor with another size along a dimension, laid out alike."""
    shape = list(like.shape)
    shape[dim] = size
    last = like.dim() == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last)
    return like.new_empty(shape).to(memory_format=torch.channels_last) if last else like.new_empty(shape)
