"""An architecture beside which some tasks have networks of their own."""

from collections.abc import Mapping
from typing import Any, Self

from torch import nn

from gate2static.architectures.architecture import Architecture, Values
from gate2static.graphs import copied


class WithOwnNetworks(Architecture):
    """An architecture, and networks of single tasks that take its place for these.

    What only these tasks needed of the architecture is computed by nobody, and pruning drops it.

    Args:
        network: The architecture.
        own: Task -> a network that maps the backbone's tensors to a dict with the task's output.
    """

    def __init__(self, network: Architecture, own: Mapping[str, nn.Module] | nn.ModuleDict) -> None:
        nn.Module.__init__(self)
        self.network = network
        self.own = own if isinstance(own, nn.ModuleDict) else nn.ModuleDict(dict(own))
        self.tasks = network.tasks
        self.call = network.call

    def outputs(self, tensors: Values) -> dict[str, Any]:
        """Returns each task's output, of its own network where it has one."""
        outputs = self.network.outputs(tensors)
        return {task: self.own[task](*tensors)[task] if task in self.own else outputs[task] for task in self.tasks}

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of the tasks' own networks; the architecture stays in evaluation mode.

        It would otherwise keep statistics of values that are computed for nobody, and its trace would not.
        """
        super().train(mode)
        self.network.eval()
        return self

    def deployed(self) -> Architecture:
        """Returns what the architecture deploys, with copies of the tasks' own networks."""
        return WithOwnNetworks(self.network.deployed(), copied(self.own)).eval()
