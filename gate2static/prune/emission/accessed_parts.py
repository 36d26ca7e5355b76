"""Parts of a value as a consumer reads it: the emission that belongs to `analysis/channel_access.py`."""

import math

import numpy as np
import torch

from gate2static.prune.analysis.channel_access import ChannelAccess, Coarse, Fine, Whole
from gate2static.prune.analysis.channel_dims import axis, others, permuted, to_physical
from gate2static.prune.analysis.numbering import Numbering
from gate2static.prune.emission.parts import Part, Parts
from gate2static.prune.emission.writer import Writer


def accessed_parts(access: ChannelAccess, parts: Parts, numbering: Numbering, writer: Writer) -> Parts:
    """Emits the channels along the dimensions of an access, in physical tensors of that layout.

    Args:
        access: The way in which the consumer reads.
        parts: The emitted tensors of the value.
        numbering: The value's numbering.
        writer: The graph to write to.
    """
    match access:
        case Whole():
            return _whole(access, parts, numbering, writer)
        case Coarse():
            return _coarse(access, parts, numbering, writer)
        case Fine():
            return _fine(access, parts, writer)
    return parts


def _whole(access: Whole, parts: Parts, numbering: Numbering, writer: Writer) -> Parts:
    """Emits each distinct value in its canonical form, its channels laid out along the dimensions of the access."""
    values = access.distinct_values(numbering)
    whole_parts = []
    for number in np.unique(values):
        stream = int(np.flatnonzero(values == number)[0])
        ids = numbering.views[stream]
        if not parts.hold(ids).all():
            continue  # a stream that nobody reads whole
        tensor = writer.whole_value(access.value, parts, ids)
        if access.dims:
            tensor = to_physical(writer.graph, tensor, len(access.shape), access.dims)
        whole_parts.append(Part(tensor, number * access.channels + np.arange(access.channels)))
    return Parts(tuple(whole_parts), axis(access.dims) if access.dims else None)


def _coarse(access: Coarse, parts: Parts, numbering: Numbering, writer: Writer) -> Parts:
    """Emits one tensor in which the channels that go together lie along dimensions of their own."""
    value_dims = access.value.dims
    members = access.numbering(numbering).sources  # (size, k)
    assert value_dims is not None
    assert members is not None
    ids = np.flatnonzero(parts.hold(members).all(1))
    at = axis(value_dims)
    if not len(ids):
        return Parts((), axis(access.dims))
    tensor = writer.view(parts, members[ids].ravel())
    inner = [d for d in value_dims if d not in access.dims]
    # (…, ids · k, …) -> (…, ids, *inner, …)
    sizes = [len(ids), *(access.shape[d] for d in inner)]
    tensor = writer.graph.call_function(torch.unflatten, (tensor, at, sizes))
    # The dimensions as they lie now and as they have to lie, by their canonical number; -1 is that of the channels.
    rest = others(len(access.shape), value_dims)
    now = [*rest[:at], -1, *inner, *rest[at:]]
    wanted = others(len(access.shape), access.dims)
    wanted.insert(axis(access.dims), -1)
    tensor = permuted(writer.graph, tensor, [now.index(d) for d in wanted])
    return Parts((Part(tensor, ids),), axis(access.dims))


def _fine(access: Fine, parts: Parts, writer: Writer) -> Parts:
    """Emits every part with the new channel dimensions flattened into its channels."""
    value_dims = access.value.dims
    assert value_dims is not None
    rest = others(len(access.shape), value_dims)
    at = axis(value_dims)
    # The dimensions of a physical tensor of the value, by their canonical number; -1 is that of its channels.
    labels = [*rest[:at], -1, *rest[at:]]
    # Where the channel dimensions of the access lie in it.
    dims = tuple(i for i, d in enumerate(labels) if d == -1 or d in access.dims)
    inner_sizes = [access.shape[labels[i]] for i in dims if labels[i] != -1]
    places = np.arange(math.prod(inner_sizes)).reshape(inner_sizes)  # (*inner)
    kept = others(len(labels), dims)
    start = axis(access.dims)
    order = [*kept[:start], *dims, *kept[start:]]
    channel_axis = [labels[i] for i in dims].index(-1)
    fine_parts = []
    for part in parts.parts:
        tensor = permuted(writer.graph, part.node, order)
        tensor = writer.graph.call_function(torch.flatten, (tensor, start, start + len(dims) - 1))
        channels = part.ids.reshape([-1 if labels[i] == -1 else 1 for i in dims])
        ids = channels * places.size + np.expand_dims(places, channel_axis)  # (*dims) as they are flattened
        fine_parts.append(Part(tensor, ids.ravel()))
    return Parts(tuple(fine_parts), start)
