"""Moves of the dimensions without channels: the emission that belongs to `analysis/rearrangement.py`."""

import math
import operator

import numpy as np
import torch
from torch import fx

from gate2static.prune.analysis.channel_dims import axis, permuted
from gate2static.prune.analysis.rearrangement import Rearrangement


def move_positions(graph: fx.Graph, tensor: fx.Node, moved: Rearrangement, channels: int) -> fx.Node:
    """Emits the move of the dimensions without channels.

    Args:
        graph: The graph to write to.
        tensor: A physical tensor of the source, as the rearrangement reads it.
        moved: The rearrangement.
        channels: The number of channels in the tensor.
    """
    positions = moved.positions
    if positions.origin is None:
        return _reshaped(graph, tensor, moved, channels)
    # The dimensions of the tensor, by their number among those without channels; -1 is that of the channels.
    labels: list[int] = [*range(len(positions.before))]
    labels.insert(axis(moved.source_dims), -1)
    for d, pick in enumerate(positions.picks):
        if pick is not None:
            tensor = _picked(graph, tensor, labels.index(d), pick, positions.before[d])
    gone = [d for d in range(len(positions.before)) if d not in positions.origin]
    for d in reversed(gone):
        tensor = graph.call_function(torch.select, (tensor, labels.index(d), 0))
        labels.remove(d)
    # The dimensions that the result has; None is a new one.
    wanted: list[int | None] = list(positions.origin)
    wanted.insert(axis(moved.dims), -1)
    present = [label for label in wanted if label is not None]
    tensor = permuted(graph, tensor, [labels.index(label) for label in present])
    for position, label in enumerate(wanted):
        if label is None:
            tensor = graph.call_function(torch.unsqueeze, (tensor, position))
    sizes = list(positions.after)
    sizes.insert(axis(moved.dims), -1)
    if any(label is None and sizes[i] > 1 for i, label in enumerate(wanted)):
        expanded = [sizes[i] if label is None else -1 for i, label in enumerate(wanted)]
        tensor = graph.call_method("expand", (tensor, expanded))
    return tensor


def _picked(graph: fx.Graph, tensor: fx.Node, dim: int, pick: tuple[int, ...], size: int) -> fx.Node:
    """Emits the positions `pick` along `dim`, by the plainest operator that does it."""
    steps = set(np.diff(pick).tolist()) or {1}
    if steps == {1}:
        return graph.call_function(torch.narrow, (tensor, dim, pick[0], len(pick)))
    if len(steps) == 1 and (step := steps.pop()) > 0:
        index = (*[slice(None)] * dim, slice(pick[0], pick[-1] + 1, step))
        return graph.call_function(operator.getitem, (tensor, index))
    if pick == tuple(reversed(range(size))):
        return graph.call_function(torch.flip, (tensor, [dim]))
    if pick == tuple(np.roll(np.arange(size), -pick[0]).tolist()):
        return graph.call_function(torch.roll, (tensor, -pick[0], dim))
    pieces = [graph.call_function(torch.narrow, (tensor, dim, at, 1)) for at in pick]
    return graph.call_function(torch.cat, (pieces, dim))


def _reshaped(graph: fx.Graph, tensor: fx.Node, moved: Rearrangement, channels: int) -> fx.Node:
    """Emits a reshape of the other dimensions.

    Channels stay between the dimensions that they separate, or move to the end first.
    """
    positions = moved.positions
    before = axis(moved.source_dims)
    after = axis(moved.dims)
    at = before
    if positions.before != positions.after or positions.batch[0] != positions.batch[1]:
        # Places in the result's sizes that have as many elements in front as the channels have now.
        elements = math.prod(positions.before[:before])
        places = [p for p in range(len(positions.after) + 1) if math.prod(positions.after[:p]) == elements]
        if not places:
            tensor = graph.call_function(torch.movedim, (tensor, before, len(positions.before)))
            places = [len(positions.after)]
        at = after if after in places else places[-1]
        sizes = [-1 if j == positions.batch[1] else size for j, size in enumerate(positions.after)]
        sizes.insert(at, channels)
        tensor = graph.call_function(torch.reshape, (tensor, sizes))
    return tensor if at == after else graph.call_function(torch.movedim, (tensor, at, after))
