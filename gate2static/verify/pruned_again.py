"""The comparison of a static network with what pruning the gated network again gives, number by number.

Outputs say nothing of a number that no drawn input reaches, such as the row of a rare word in a table, or that is lost
in the rounding of the output. Weights of a static network are slices of the gated one's, bit for bit, so pruning again
with the same options gives the same operators and the same numbers, and any other is wrong. What both prunings do
wrong, only the outputs tell.
"""

from importlib.metadata import version

import torch
from torch import Tensor

from gate2static.errors import PruneError
from gate2static.gates.model import GatedModel
from gate2static.prune import apply, plan
from gate2static.prune.emission.layout import Layout
from gate2static.static.graph_json import graph_to_dict
from gate2static.static.manifest import Pruning
from gate2static.static.model import StaticModel
from gate2static.static.recording import stored_tensors


def changed_parts(gated: GatedModel, static: StaticModel) -> tuple[str, ...] | None:
    """Names what in a static network is not what pruning gives.

    Args:
        gated: The gated network; it is not changed.
        static: The static network; it is not changed.

    Returns:
        Names of tensors and operators of the static network. None where that cannot be said: the network does not state
        the options that it was pruned with, or another version made it.
    """
    options = static.manifest.pruning
    made_with = {"gate2static": version("gate2static"), "torch": torch.__version__}
    if options is None or any(static.manifest.versions.get(name) != found for name, found in made_with.items()):
        return None
    fresh = _pruned(gated, options, static.tasks)
    if fresh is None:
        return None
    nodes = [*static.network.graph.nodes]
    calls = graph_to_dict(static.network.graph)
    expected_calls = graph_to_dict(fresh.network.graph)
    if len(calls) != len(expected_calls):
        return (f"the graph, which has {len(calls)} nodes and not {len(expected_calls)}",)
    names = [
        node.name
        for node, call, expected in zip(nodes, calls, expected_calls, strict=True)
        if call != expected
    ]
    tensors = stored_tensors(static.network)
    expected_tensors = stored_tensors(_converted_like(static, fresh).network)
    names += sorted(tensors.keys() ^ expected_tensors.keys())
    shared = [name for name in tensors if name in expected_tensors]
    names += [name for name in shared if not _equal(tensors[name], expected_tensors[name])]
    return tuple(names)


def _converted_like(static: StaticModel, fresh: StaticModel) -> StaticModel:
    """Converts a network as another one may have been after it was pruned: all of it to one type."""
    types = [next((p.dtype for p in model.parameters() if p.is_floating_point()), None) for model in (static, fresh)]
    return fresh if types[0] is types[1] else fresh.to(types[0])


def _pruned(gated: GatedModel, options: Pruning, tasks: tuple[str, ...]) -> StaticModel | None:
    """Prunes again; None where the options are not those of this version."""
    dtype = None if options.dtype is None else getattr(torch, options.dtype, None)
    try:
        layout = Layout(**options.layout)  # type: ignore[arg-type]  # checked by the call
        chosen = plan(gated, align=options.align, target=layout, dynamic=options.dynamic, tasks=tasks)
        return apply(chosen, dtype=dtype)
    except (TypeError, PruneError):
        return None


def _equal(actual: Tensor, expected: Tensor) -> bool:
    if actual.dtype is not expected.dtype or actual.shape != expected.shape:
        return False
    actual = actual.detach().cpu()
    if torch.equal(actual, expected):
        return True
    # Masks may hold what is not equal to itself.
    return torch.equal(actual.isnan(), expected.isnan()) and torch.equal(actual.nan_to_num(), expected.nan_to_num())
