"""Names for the layers of a static network that also its deployed form and ONNX files can have.

The manifest names a network's tensors (`layers`). Deploying replaces weights and recording again loses nodes, so the
name of a layer is noted on its node and handed on by its weight.
"""

from collections.abc import Mapping

import torch
from torch import fx

LABELS = "layer_labels"
"""The key under which networks keep weight -> label, and nodes their label, in their `meta`."""
_WEIGHT_POSITION = 1
"""Convolutions and linear layers are called with (x, weight, …)."""


def label_of(name: str) -> str | None:
    """Returns a layer's label, such as `layer1_0_conv1/seg_shared` or `heads.seg.out`; None for other tensors.

    Args:
        name: The name of a tensor in the manifest, such as `layer1_0_conv1.seg_shared.weight`.
    """
    *layer, tensor = name.split(".")
    if tensor != "weight" or not layer:
        return None
    if layer[0] == "heads" or len(layer) == 1:
        return ".".join(layer)
    return f"{'.'.join(layer[:-1])}/{layer[-1]}"


def note_labels(network: fx.GraphModule, names: Mapping[str, str]) -> None:
    """Notes its label on every layer of a captured network.

    Args:
        network: The network.
        names: Name of a tensor in the network -> its name in the manifest.
    """
    for node in network.graph.nodes:
        weight = _weight_of(node)
        label = None if weight is None else label_of(names.get(str(weight.target), ""))
        if label is not None:
            node.meta[LABELS] = label


def noted_labels(network: fx.GraphModule) -> dict[str, str]:
    """Returns the labels that layers were noted to have, by the names of their weights."""
    labels = {}
    for node in network.graph.nodes:
        weight = _weight_of(node)
        if weight is not None and LABELS in node.meta:
            labels[str(weight.target)] = node.meta[LABELS]
    return labels


def _weight_of(node: fx.Node) -> fx.Node | None:
    """Returns the read of a layer's weight; None for nodes that are no layers with a stored one."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    weight = node.args[_WEIGHT_POSITION] if len(node.args) > _WEIGHT_POSITION else None
    return weight if isinstance(weight, fx.Node) and weight.op == "get_attr" else None
