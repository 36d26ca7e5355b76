"""Finds operators that treat every channel alike, which settled gates let run once for all streams."""

from torch import fx, nn

from gate2static.program.annotate import info
from gate2static.program.layer_kinds import layer_class
from gate2static.program.operators import (
    ACTIVATION_FUNCTIONS,
    ACTIVATION_LAYERS,
    POOLING_LAYERS,
    function_name,
    window_dims,
)

_SAME_SHAPE_LAYERS = (*ACTIVATION_LAYERS, nn.Identity)
_SAME_SHAPE_FUNCTIONS = ACTIVATION_FUNCTIONS | {"neg", "contiguous", "add", "sub", "mul"}


def works_by_channel(branch: nn.Module, node: fx.Node, dims: set[int]) -> bool:
    """Returns whether a node treats every channel alike and apart from the others.

    Nodes with parameters or random numbers do not, because these differ between channels and streams.

    Args:
        branch: The owner of the modules that the node's graph calls.
        node: An annotated node of the program.
        dims: The channel dimensions of its inputs.
    """
    shapes = {info(n).shape for n in node.all_input_nodes}
    is_pointwise = shapes == {info(node).shape} and len(dims) == 1
    if node.op != "call_module":
        return is_pointwise and function_name(node) in _SAME_SHAPE_FUNCTIONS
    module = branch.get_submodule(str(node.target))
    kind = layer_class(module)
    if kind in _SAME_SHAPE_LAYERS:
        return is_pointwise
    if kind not in POOLING_LAYERS or getattr(module, "return_indices", False):
        return False
    # (N, C, *positions); without a batch, dimension 1 would be one of positions.
    ndim = len(info(node).shape or ())
    return dims == {1} and ndim - 2 == window_dims(kind.__name__)
