"""An architecture as a gated model, which prune, verify, export and bench take as it is."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from gate2static.architectures.architecture import Architecture
from gate2static.arguments import require_kind
from gate2static.errors import ArchitectureError, GateError
from gate2static.gates import GatedModel, gate, set_gates
from gate2static.gates.arguments import check_inputs


def as_gated(architecture: Architecture, example_inputs: Sequence[Any] | Mapping[str, Any]) -> GatedModel:
    """Returns what an architecture deploys as the shared branch of a gated model whose gates are all shared.

    Pruned, it is that network and nothing else: one static network for all tasks.

    Args:
        architecture: A trained architecture; it is not changed.
        example_inputs: The backbone's arguments, as for `gate`.

    Returns:
        The gated model, in evaluation mode, called like the backbone. It is not meant to be trained.

    Raises:
        ArchitectureError: The network is no architecture, or the example inputs are no arguments.
    """
    allowed = "a network that `architecture` returned"
    require_kind(architecture, Architecture, name="architecture", allowed=allowed, error=ArchitectureError)
    try:
        check_inputs(example_inputs)
    except GateError as error:
        raise ArchitectureError(str(error)) from error
    network = _Network(architecture.deployed())
    tensors = architecture.call.tensors(
        *(((), example_inputs) if isinstance(example_inputs, Mapping) else (example_inputs, {}))
    )
    heads = {task: _Output(task) for task in architecture.tasks}
    gated = gate(network, tasks=architecture.tasks, example_inputs=tuple(tensors), heads=heads, mixing="hard")
    # The traced network takes the tensors by position; its users call it like the backbone.
    gated.program = replace(gated.program, call=architecture.call)
    set_gates(gated, False)
    return gated.eval()


class _Network(nn.Module):
    """The network as a backbone: tensors in, outputs by task out."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.eval()

    def forward(self, *tensors: Tensor) -> dict[str, Any]:
        return self.architecture.outputs(tensors)


class _Output(nn.Module):
    """The head that passes one task's output on."""

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task

    def forward(self, outputs: Mapping[str, Any]) -> Any:
        return outputs[self.task]
