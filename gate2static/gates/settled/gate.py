"""The gate of a unit some of whose decisions are settled: it reads and makes only what still differs.

It makes one tensor of distinct channels, see `Demand`. Tasks that are settled on the shared feature have ψ's channel in
common, so whatever acts channel by channel afterwards acts on it once.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gate2static.gates.channel_gate import Gate, chunks
from gate2static.gates.settled.demand import Demand, Ids

_Factors = dict[int, Tensor]
"""Task -> one number per channel, lined up with a feature map."""

_CHUNK_ELEMENTS = 2**19
"""Elements that the CPU works on at a time: more than in `_SelectAndMix`, since there are more steps to each piece."""


class SettledGate(nn.Module):
    """Computes eq. 2 and 3 where they still matter.

    Args:
        gate: The unit's gate, whose parameters are used.
        demand: The channels that are computed and made.

    Attributes:
        unused: Parameters that no longer take part. They get zero gradients, as most would without settling.
    """

    def __init__(self, gate: Gate, demand: Demand) -> None:
        super().__init__()
        self.gate = gate
        self.unused = nn.ParameterList()
        self._index = _Index(demand, gate.dim, gate.alpha.device)

    def forward(self, *streams: Tensor) -> Tensor:
        """Makes the distinct channels.

        Args:
            streams: The computed channels (`Demand.computed`) of the streams that have any.
        """
        # (T, C)
        soft = self.gate.probabilities()
        # Straight through: 0 or 1 forwards, the gradient of σ(α) backwards.
        gates = self.gate.decisions().to(soft.dtype) + (soft - soft.detach())
        mixing = self.gate.mixing()
        if len(self.unused):
            mixing = _WithUnused.apply(mixing, *self.unused)
        # Under autocast the streams are narrower than the gates.
        dtype = streams[0].dtype
        distinct: Tensor = _SelectAndMixDistinct.apply(self._index, gates.to(dtype), mixing.to(dtype), *streams)
        return distinct


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
    """A demand as positions in tensors; where a position tensor is None, it stands for all positions in order.

    Attributes:
        dim: The channel dimension.
        tasks: T, which is also the number of the shared stream.
        starts: See `Demand`.
        present: The streams that compute any channels.
        own: The tasks that compute any channels.
        undecided: Task -> the number of its undecided channels, which come first.
        below: Task -> the positions of its undecided channels among ψ's.
        passed_on: The positions of the channels that ψ passes on among ψ's.
        mixes: Whether any channels are mixed.
        in_mix: Task -> the positions of its channels among the mixed ones.
        psi_in_mix: The positions of the mixed channels that ψ has among the mixed ones.
        mixed_psi: The positions of the mixed channels that ψ has among ψ's.
    """

    def __init__(self, demand: Demand, dim: int, device: torch.device) -> None:
        def ids(channels: Ids, among: Ids) -> Tensor | None:
            if np.array_equal(channels, among):
                return None
            positions = np.flatnonzero(among == channels[:, None]) % max(1, len(among))
            return torch.from_numpy(positions).to(device)

        *of_tasks, psi = demand.computed
        mixed_psi = np.intersect1d(demand.mixed, psi)
        self.dim = dim
        self.tasks = demand.tasks
        self.starts = demand.starts
        self.present = [s for s, channels in enumerate(demand.computed) if len(channels)]
        self.own = [t for t, channels in enumerate(of_tasks) if len(channels)]
        self.undecided = {t: len(demand.undecided[t]) for t in self.own}
        self.below = {t: ids(demand.undecided[t], psi) for t in self.own}
        self.passed_on = ids(demand.passed_on, psi)
        self.mixes = len(demand.mixed) > 0
        self.in_mix = {t: ids(of_tasks[t], demand.mixed) for t in self.own} if self.mixes else {}
        self.psi_in_mix = ids(mixed_psi, demand.mixed)
        self.mixed_psi = ids(mixed_psi, psi)
        # One index takes what the work needs of gates and mixing weights, (T, C) as T · C.
        channels = demand.settled.shape[1]
        flat = [t * channels + of_tasks[t] for t in self.own]
        self.sizes = [len(positions) for positions in flat]
        self.flat = torch.from_numpy(np.concatenate([*flat, np.empty(0, np.int64)])).to(device)
        self.flat_channels = self.flat % channels
        # The channels of the mix in which some task has ψ for good, and (T, channels) which tasks these are.
        self.psi_channels = torch.from_numpy(mixed_psi).to(device)
        self.psi_tasks = torch.from_numpy(demand.shared[:, mixed_psi]).to(device)

    def by_task(self, values: Tensor) -> _Factors:
        """Splits the values of all tasks' own channels: task -> its values."""
        return dict(zip(self.own, values.split(self.sizes), strict=True))

    def factors(self, gates: Tensor, mixing: Tensor, shape: list[int]) -> tuple[_Factors, _Factors, Tensor]:
        """Returns the gates of undecided channels, the mixing weights of own channels, and ψ's weight in the mix.

        Args:
            gates: (T, C), 0 or 1.
            mixing: (T, C), the mixing weights.
            shape: (1, …, -1, …, 1), which lines numbers per channel up with a feature map.
        """
        undecided = {t: g[: self.undecided[t]].view(shape) for t, g in self.by_task(gates.take(self.flat)).items()}
        weights = {t: w.view(shape) for t, w in self.by_task(mixing.take(self.flat)).items()}
        psi_weight = (mixing.index_select(1, self.psi_channels) * self.psi_tasks).sum(0)
        return undecided, weights, psi_weight.view(shape)


class _SelectAndMixDistinct(torch.autograd.Function):
    """`_SelectAndMix` on the channels that are left: the same sums in another order."""

    @staticmethod
    def forward(ctx: Any, index: _Index, gates: Tensor, mixing: Tensor, *streams: Tensor) -> Tensor:
        dim = index.dim
        starts = index.starts
        ctx.shape = [1] * streams[0].dim()
        ctx.shape[dim] = -1
        ctx.index = index
        ctx.save_for_backward(gates, mixing, *streams)
        own_gates, weights, psi_weight = index.factors(gates, mixing, ctx.shape)
        # The streams' shape, but with as many channels as there are distinct ones.
        distinct = _empty(streams[0], dim, starts[-1])
        for out, *parts in chunks((distinct, *streams), _CHUNK_ELEMENTS):
            phi = dict(zip(index.present, parts, strict=True))
            psi = phi.get(index.tasks)
            # The mix is summed up: ψ where some task passes it on for good, and each task's picked channels.
            mix = out.narrow(dim, starts[-2], starts[-1] - starts[-2])
            if psi is None:
                mix.zero_()
            else:
                _copy_taken(out.narrow(dim, 0, starts[1]), dim, index.passed_on, psi)
                if index.mixes:
                    _put(mix, dim, index.psi_in_mix, _take(psi, dim, index.mixed_psi) * psi_weight)
            for t in index.own:
                x = phi[t]
                picked = out.narrow(dim, starts[t + 1], x.shape[dim])
                undecided = index.undecided[t]
                # φ′ = ψ + g (φ - ψ), with 0 or 1 for g.
                if undecided:
                    assert psi is not None
                    below = _take(psi, dim, index.below[t])
                    picked_undecided = picked.narrow(dim, 0, undecided)
                    torch.lerp(below, x.narrow(dim, 0, undecided), own_gates[t], out=picked_undecided)
                # Behind the undecided channels are those that are the task's own for good.
                if rest := x.shape[dim] - undecided:
                    picked.narrow(dim, undecided, rest).copy_(x.narrow(dim, undecided, rest))
                if index.mixes:
                    _add_product(mix, dim, index.in_mix[t], picked, weights[t])
        return distinct

    @staticmethod
    def backward(ctx: Any, grad_distinct: Tensor) -> tuple[Tensor | None, ...]:
        gates, mixing, *streams = ctx.saved_tensors
        index: _Index = ctx.index
        dim = index.dim
        starts = index.starts
        own_gates, weights, psi_weight = index.factors(gates, mixing, ctx.shape)
        others = [d for d, size in enumerate(ctx.shape) if size != -1]
        closed = 1 - gates.take(index.flat)
        closed_of = index.by_task(closed)
        # Of each task's own channels: Σ dφ′ (φ - ψ), and Σ dψ′ φ. Of the mixed channels of ψ: Σ dψ′ ψ.
        change_sums = {t: torch.zeros_like(weights[t]).view(-1) for t in index.own}
        mix_sums = {t: torch.zeros_like(weights[t]).view(-1) for t in index.own}
        psi_sums = torch.zeros_like(psi_weight).view(-1)
        results = [torch.empty_like(x) for x in streams]
        for grad, *parts in chunks((grad_distinct, *streams, *results), _CHUNK_ELEMENTS):
            phi = dict(zip(index.present, parts[: len(streams)], strict=True))
            grad_phi = dict(zip(index.present, parts[len(streams) :], strict=True))
            psi = phi.get(index.tasks)
            grad_psi = grad_phi.get(index.tasks)
            grad_mix = grad.narrow(dim, starts[-2], starts[-1] - starts[-2])
            if psi is not None and grad_psi is not None:
                _put(grad_psi, dim, index.passed_on, grad.narrow(dim, 0, starts[1]))
                if index.mixes:
                    part = _take(grad_mix, dim, index.psi_in_mix)
                    psi_sums += (part * _take(psi, dim, index.mixed_psi)).sum(others)
                    _add_product(grad_psi, dim, index.mixed_psi, part, psi_weight)
            for t in index.own:
                out = grad_phi[t]
                x = phi[t]
                undecided = index.undecided[t]
                picked = grad.narrow(dim, starts[t + 1], x.shape[dim])
                # dφ′ comes from the task's own stream and, with its weight, from the mix.
                if index.mixes:
                    mixed = _take(grad_mix, dim, index.in_mix[t])
                    torch.addcmul(picked, mixed, weights[t], out=out)
                    mix_sums[t] += (mixed * x).sum(others)
                else:
                    out.copy_(picked)
                if not undecided:
                    continue
                assert psi is not None
                assert grad_psi is not None
                # `out` is dφ′, which is dφ only where the gate is open.
                grad_undecided = out.narrow(dim, 0, undecided)
                change = x.narrow(dim, 0, undecided) - _take(psi, dim, index.below[t])
                change_sums[t][:undecided] += change.mul_(grad_undecided).sum(others)
                # dψ gets it where the gate is closed.
                weight = closed_of[t][:undecided].view(ctx.shape)
                _add_product(grad_psi, dim, index.below[t], grad_undecided, weight)
                grad_undecided.mul_(own_gates[t])
        change = _joined(change_sums, gates)
        with_own = _joined(mix_sums, gates)
        # What a task passes into the mix is φ where its gate is open and ψ where it is closed.
        with_psi = torch.zeros_like(gates[0]).index_copy_(0, index.psi_channels, psi_sums).take(index.flat_channels)
        # (T, C), with zeros for settled gates and for what is not computed.
        grad_gates = torch.zeros_like(gates).put_(index.flat, change)
        grad_mixing = torch.zeros_like(mixing).put_(index.flat, torch.where(closed > 0, with_psi, with_own))
        grad_mixing.index_add_(1, index.psi_channels, psi_sums * index.psi_tasks)
        return None, grad_gates, grad_mixing, *results


def _joined(sums: _Factors, like: Tensor) -> Tensor:
    """Returns the sums of all tasks one after the other.

    Args:
        sums: Task -> one number per channel.
        like: A tensor with the dtype and device of the result, should there be no task.
    """
    return torch.cat([*sums.values()]) if sums else like.new_empty(0)


def _take(x: Tensor, dim: int, index: Tensor | None) -> Tensor:
    """Returns the channels of a tensor at some positions.

    Args:
        x: A feature map.
        dim: Its channel dimension.
        index: The positions, or None for all of them in order.
    """
    return x if index is None else x.index_select(dim, index)


def _copy_taken(out: Tensor, dim: int, index: Tensor | None, source: Tensor) -> None:
    """Writes the channels of `source` at some positions into `out`.

    Args:
        out: The tensor to write into, with as many channels as there are positions.
        dim: The channel dimension.
        index: The positions, or None for all channels in order.
        source: The tensor to read.
    """
    if index is None:
        out.copy_(source)
    else:
        torch.index_select(source, dim, index, out=out)


def _put(x: Tensor, dim: int, index: Tensor | None, values: Tensor) -> None:
    """Writes values into some channels of a tensor, and zeros into the others.

    Args:
        x: The tensor to write into.
        dim: Its channel dimension.
        index: The positions of the values, or None for all channels in order.
        values: As many channels as there are positions.
    """
    if index is None:
        x.copy_(values)
    else:
        # This is faster than index_copy_.
        x.zero_().index_add_(dim, index, values)


def _add_product(x: Tensor, dim: int, index: Tensor | None, values: Tensor, weights: Tensor) -> None:
    """Adds values times weights to some channels of a tensor.

    Args:
        x: The tensor to add to.
        dim: Its channel dimension.
        index: The positions of the values, or None for all channels in order.
        values: As many channels as there are positions.
        weights: One weight per channel of the values, lined up with them.
    """
    if index is None:
        x.addcmul_(values, weights)
    else:
        x.index_add_(dim, index, values * weights)


def _empty(like: Tensor, dim: int, size: int) -> Tensor:
    """Returns a tensor with another size along a dimension, laid out alike."""
    shape = list(like.shape)
    shape[dim] = size
    empty = like.new_empty(shape)
    # Images with channels last in memory stay so.
    channels_last = torch.channels_last
    if like.dim() == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=channels_last):
        return empty.to(memory_format=channels_last)
    return empty
