"""A static network for some of its tasks: the other outputs are cut off, and with them what only they read."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import fx

from gate2static.errors import ExportError, VerificationError
from gate2static.graphs import remove_unread
from gate2static.latency.operators import record
from gate2static.static import Manifest, StaticModel
from gate2static.static.folder import digest, serialise


def for_tasks(static: StaticModel, tasks: Sequence[str]) -> StaticModel:
    """Returns the network of some tasks, whose outputs are those of the whole network, bit for bit.

    Args:
        static: The network; it is not changed.
        tasks: The tasks to keep; their order is that of the network.

    Raises:
        ExportError: No task, a task that the network does not have, or one that is named twice.
        VerificationError: The part computes something else.
    """
    unknown = [task for task in tasks if task not in static.tasks]
    if unknown or not tasks or len(set(tasks)) < len(tasks):
        wrong = f"the network has no task {unknown[0]!r}" if unknown else "allowed is at least one task, and each once"
        raise ExportError(f"the tasks to export are {', '.join(tasks) or 'none'}: {wrong}; {', '.join(static.tasks)}")
    kept = [i for i, name in enumerate(static.output_names) if name.partition(".")[0] in tasks]
    network = deepcopy(static.network)
    (output,) = network.graph.find_nodes(op="output")
    output.args = (tuple(output.args[0][i] for i in kept),)
    remove_unread(network.graph)
    _drop_unread(network)
    network.recompile()
    part = StaticModel(network, _manifest(static, network, tasks, kept))
    _check_equal(static, part)
    return part


def _drop_unread(network: fx.GraphModule) -> None:
    """Removes the tensors that no operator reads any more."""
    read = {str(node.target) for node in network.graph.find_nodes(op="get_attr")}
    for held in (network._parameters, network._buffers):
        for name in set(held) - read:
            del held[name]


def _manifest(static: StaticModel, network: fx.GraphModule, tasks: Sequence[str], kept: Sequence[int]) -> Manifest:
    """Returns the manifest of a part; what it is compared with stays the networks of all tasks."""
    old = static.manifest
    rows = [i for i, task in enumerate(static.tasks) if task in tasks]
    macs = sum(operator.macs for operator in record(network, static.example_inputs()))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    outputs = tuple(old.outputs[i] for i in kept)
    names = {spec.name for spec in outputs}
    held = network.state_dict().keys()
    meaning = None
    if old.meaning is not None:
        of_outputs = {name: value for name, value in old.meaning.outputs.items() if name in names}
        meaning = old.meaning.model_copy(update={"outputs": of_outputs})
    return old.model_copy(
        update={
            "tasks": tuple(static.tasks[i] for i in rows),
            "outputs": outputs,
            "gates": {unit: [flags[i] for i in rows] for unit, flags in old.gates.items()},
            "contributions": {unit: [shares[i] for i in rows] for unit, shares in old.contributions.items()},
            "macs": old.macs.model_copy(update={"static": macs}),
            "parameters": old.parameters.model_copy(update={"static": parameters}),
            "digest": digest(*serialise(network)),
            "meaning": meaning,
            "layers": {name: layer for name, layer in old.layers.items() if name in held},
            # They are of the whole network.
            "pruning": None,
            "equivalence": None,
            "budget": None,
        }
    )


def _check_equal(static: StaticModel, part: StaticModel) -> None:
    with torch.inference_mode():
        whole = static.outputs(*static.example_inputs(2))
        found = part.outputs(*static.example_inputs(2))
    wrong = [name for name, value in found.items() if not torch.equal(value.nan_to_num(), whole[name].nan_to_num())]
    if wrong:
        raise VerificationError(
            f"the network of {', '.join(part.tasks)} computes another {', '.join(wrong)} than the whole network; this "
            "is a bug: please report it, and export all tasks"
        )
