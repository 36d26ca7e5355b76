"""A gated model as it is for inputs of other heights and widths, for a static network that takes any of them.

The static network is emitted for several sizes, and what differs between them must follow the sizes of the inputs. What
the forwards decided on sizes while they were traced is the same for all of them, so it may not depend on a size at all.
"""

import copy
from collections.abc import Sequence

from torch import nn
from torch.utils import _pytree as pytree

from gate2static.errors import PruneError, TraceError
from gate2static.gates.model import GatedModel
from gate2static.program.annotate import info
from gate2static.program.program import program_at
from gate2static.program.size_decisions import Shapes
from gate2static.prune.present import as_it_is

DIMS = {"height": 1, "width": 2}
"""Name of a free size -> its dimension in the shape of an image (C, H, W)."""
_ENOUGH = 3
"""The other sizes that a network is emitted for, at most."""


def check_dynamic(dynamic: Sequence[str]) -> None:
    """Refuses names that are no sizes.

    Raises:
        PruneError: A name is unknown or given twice.
    """
    if isinstance(dynamic, str) or len(set(dynamic)) != len(dynamic) or not set(dynamic) <= DIMS.keys():
        raise PruneError(f"dynamic is {dynamic!r}; allowed are () and any of {tuple(DIMS)}, each once.")


def at_other_sizes(gated: GatedModel, dynamic: Sequence[str]) -> list[GatedModel]:
    """Returns a gated model as it is at other sizes.

    Args:
        gated: The model; it is not changed.
        dynamic: The names of the sizes that are to be free.

    Returns:
        Copies that share everything but the program, whose nodes know their shapes at another size.

    Raises:
        PruneError: No input is an image, the network runs at no other size, or its code decides on a size.
    """
    gated = as_it_is(gated)
    shapes = example_shapes(gated)
    free = [DIMS[name] for name in dynamic]
    if not any(len(shape) == 3 for shape in shapes):
        raise PruneError(
            f"dynamic asks for inputs of any {' and '.join(dynamic)}, but no input is an image (batch, channels, "
            f"height, width); they have shapes {[('batch', *shape) for shape in shapes]}. Leave dynamic out."
        )
    root = nn.Module()
    branch = gated.branches[gated.tasks[0]]
    root._modules = dict(branch._modules)
    for name, tensor in (*branch.named_parameters(recurse=False), *branch.named_buffers(recurse=False)):
        root.register_buffer(name, tensor.detach())
    others: list[GatedModel] = []
    reason: Exception | None = None
    for candidate in _candidates(shapes, free):
        if len(others) == _ENOUGH:
            break
        try:
            program = program_at(gated.program, root, gated.heads, candidate)
        except TraceError as error:
            reason = reason or error
            continue
        other = copy.copy(gated)
        other.program = program
        others.append(other)
    _refuse_decisions(gated, others, _candidates(shapes, free))
    if not others:
        raise PruneError(
            f"the network does not run at any other {' and '.join(dynamic)} than that of its example inputs: {reason} "
            "Leave dynamic out."
        )
    return others


def example_shapes(gated: GatedModel) -> Shapes:
    """Returns the shapes of a model's inputs, without the batch."""
    return tuple((info(node).shape or ())[1:] for node in gated.program.graph.find_nodes(op="placeholder"))


def _candidates(shapes: Shapes, free: Sequence[int]) -> list[Shapes]:
    """Returns sizes to try: odd ones, since code may halve a size and round, and multiples of usual strides."""

    def grown(size: int, dim: int, step: int) -> int:
        return size if dim not in free else size + step * (1 if dim == free[0] else 3)

    images = [shape for shape in shapes if len(shape) == 3]
    largest = max(size for shape in images for size in shape[1:])
    return [
        tuple(
            tuple(grown(size, dim, step) for dim, size in enumerate(shape)) if len(shape) == 3 else shape
            for shape in shapes
        )
        for step in (1, 2, 32, largest, 2 * largest)
    ]


def _refuse_decisions(gated: GatedModel, others: Sequence[GatedModel], candidates: Sequence[Shapes]) -> None:
    """Refuses a network whose code decides on a free size.

    Raises:
        PruneError: The message names the line.
    """
    lines = []
    if gated.program.decisions is not None:
        lines.append(gated.program.decisions.size_dependent_line(candidates))
    features = [_feature_shapes(other) for other in others]
    lines += [decisions.size_dependent_line(features) for decisions in gated.program.head_decisions.values()]
    line = next((line for line in lines if line is not None), None)
    if line is not None:
        raise PruneError(
            f"the network decides on the size of its inputs (at {line}), so one graph does not fit all sizes. Leave "
            "dynamic out, or write that line with operators that take sizes, such as `interpolate(size=x.shape[2:])`."
        )


def _feature_shapes(gated: GatedModel) -> Shapes:
    """Returns the shapes of what all heads read, without the batch."""
    return tuple((info(leaf).shape or ())[1:] for leaf in pytree.tree_leaves(gated.program.features))
