"""Removes dropout, which a static network keeps for `StaticModel.trainable` alone: in evaluation it does nothing.

Requires: a captured network. Ensures: the same function without dropout.
"""

import torch
from torch import fx

_aten = torch.ops.aten
DROPOUT = (_aten.dropout.default, _aten.feature_dropout.default)


def remove_dropout(network: fx.GraphModule) -> bool:
    """Removes every dropout of a network in place, and returns whether there was one."""
    graph = network.graph
    dropouts = [node for target in DROPOUT for node in graph.find_nodes(op="call_function", target=target)]
    for node in dropouts:
        (source,) = node.all_input_nodes
        node.replace_all_uses_with(source)
        graph.erase_node(node)
    return bool(dropouts)
