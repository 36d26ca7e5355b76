"""Whether a network is the one that its manifest describes, and takes no more than such a network may.

The same is asked before a network is saved and after it was loaded, so that whatever is saved can be loaded.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, fx

from gate2static.graphs import quiet
from gate2static.messages import brief
from gate2static.static.aten import ANY_BATCH
from gate2static.static.capturing.meta_tensors import META
from gate2static.static.manifest import Manifest
from gate2static.static.outputs import structured
from gate2static.static.vetting.graph_bounds import Bounds, BoundsError, bounds_for, shapes_within


def inconsistency(network: fx.GraphModule, manifest: Manifest) -> str | None:
    """Compares a network with its manifest, by running it on tensors without content.

    Args:
        network: The network, which need not be trusted.
        manifest: Its manifest, which need not be trusted either.

    Returns:
        Why the network is not the one that the manifest describes; None if it is.
    """
    if [*manifest.tasks] != [*structured({spec.name: None for spec in manifest.outputs})]:
        return "outputs are not named for the tasks"
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if parameters != manifest.parameters.static:
        return f"the weights hold {parameters:,} parameters, not {manifest.parameters.static:,}"
    sizes = [spec.shape for spec in manifest.inputs]
    bounds = _bounds_at(network, manifest, sizes)
    try:
        with torch.no_grad(), quiet():
            outputs = shapes_within(network, _without_content(manifest, sizes, ANY_BATCH), bounds)
            shapes_within(network, _without_content(manifest, sizes, 1), bounds)
    except BoundsError as error:
        return f"it takes more than a network of its inputs and weights: {error}"
    except Exception as error:  # noqa: BLE001 - whatever a stranger's graph does wrong
        return f"it does not run on the inputs: {brief(error)}"
    taken = len(network.graph.find_nodes(op="placeholder"))
    if taken != len(manifest.inputs):
        return f"the graph takes {taken} inputs, not {len(manifest.inputs)}"
    if not all(isinstance(x, Tensor) for x in outputs):
        return "an output is no tensor"
    shapes = [(tuple(x.shape[1:]), str(x.dtype).removeprefix("torch.")) for x in outputs]
    expected = [(spec.shape, spec.dtype) for spec in manifest.outputs]
    if shapes != expected:
        return f"outputs are {brief(shapes)}, not {brief(expected)}"
    return None


def excess_at(network: fx.GraphModule, manifest: Manifest, sizes: Sequence[tuple[int, ...]]) -> str | None:
    """Finds out whether a network with free sizes takes too much at some of them.

    Args:
        network: The network, which need not be trusted.
        manifest: Its manifest.
        sizes: The shapes of the inputs, without the batch.

    Returns:
        What it takes too much of; None where it does not, or does not run at these sizes at all.
    """
    try:
        with torch.no_grad(), quiet():
            shapes_within(network, _without_content(manifest, sizes, 1), _bounds_at(network, manifest, sizes))
    except BoundsError as error:
        return str(error)
    except Exception:  # noqa: BLE001 - torch says better what does not fit when it computes
        return None
    return None


def _bounds_at(network: fx.GraphModule, manifest: Manifest, sizes: Sequence[tuple[int, ...]]) -> Bounds:
    """Returns what a network may take at these sizes of its inputs."""
    elements = sum(map(math.prod, sizes))
    of_example = max(1, sum(math.prod(spec.shape) for spec in manifest.inputs))
    # Attention compares every position with every other one.
    growth = max(1, math.ceil(elements / of_example)) ** 2
    weights = sum(tensor.numel() for tensor in network.state_dict().values())
    return bounds_for(inputs=elements, weights=weights, macs=manifest.macs.static * growth)


def _without_content(manifest: Manifest, sizes: Sequence[tuple[int, ...]], samples: int) -> tuple[Tensor, ...]:
    """Returns inputs of these sizes on the meta device."""
    return tuple(
        torch.empty((samples, *shape), dtype=getattr(torch, spec.dtype), device=META)
        for spec, shape in zip(manifest.inputs, sizes, strict=True)
    )
