"""A gated network whose weights, gradients and optimiser states are divided among the processes (torch's FSDP2)."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from gate2static.gates import GatedModel, gate_parameters


class Sharding:
    """A network of which every process trains its part, beside the whole network that all other code knows.

    The gates are the same parameters in both, since losses, budgets and projections read and write them; they are
    small. The whole network's weights are those of the last `gather`, and wait in the CPU's memory for the next one.

    Args:
        whole: The network, on its device. A copy of it is divided.

    Attributes:
        whole: The whole network.
        model: The divided network.
    """

    def __init__(self, whole: GatedModel) -> None:
        self.whole = whole
        self.device = next(whole.parameters()).device
        gates = gate_parameters(whole)
        self.model = copy.deepcopy(whole, {id(gate): gate for gate in gates})
        _divide(self.model)
        self.move(torch.device("cpu"))

    @torch.no_grad()
    def gather(self) -> None:
        """Gives the whole network the weights of the divided one. All processes call this together."""
        divided = self.model.state_dict()
        for name, value in self.whole.state_dict().items():
            value.copy_(_whole(divided[name]))

    @torch.no_grad()
    def scatter(self) -> None:
        """Gives the divided network the weights of the whole one, which are equal in all processes."""
        whole = self.whole.state_dict()
        for name, value in self.model.state_dict().items():
            value.copy_(_part(whole[name].to(self.device), value))

    def state_of(self, optimiser: Optimizer) -> "WholeState":
        """Returns what a checkpoint saves and restores of the divided network's optimiser."""
        return WholeState(optimiser)

    def move(self, device: torch.device) -> None:
        """Moves the whole network's weights; its gates are the divided network's and stay."""
        gates = {id(gate) for gate in gate_parameters(self.whole)}
        for tensor in (*self.whole.parameters(), *self.whole.buffers()):
            if id(tensor) not in gates:
                tensor.data = tensor.data.to(device)


@dataclass(frozen=True)
class WholeState:
    """The state of a divided network's optimiser as checkpoints have it: that of a whole network.

    Attributes:
        optimiser: The optimiser.
    """

    optimiser: Optimizer

    def state_dict(self) -> dict[str, Any]:
        """Returns the state with whole tensors. All processes call this together."""
        state = self.optimiser.state_dict()
        wholes = {}
        for number, of_parameter in state["state"].items():
            wholes[number] = {key: _whole(value) for key, value in of_parameter.items()}
        return {**state, "state": wholes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state from whole tensors; each process takes its part."""
        parameters = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        parts = {}
        for number, of_parameter in state["state"].items():
            like = parameters[number]
            parts[number] = {
                # Adam counts steps in a tensor of its own shape.
                key: _part(value.to(like.device), like) if value.shape == like.shape else value
                for key, value in of_parameter.items()
            }
        self.optimiser.load_state_dict({**state, "state": parts})


def _divide(model: GatedModel) -> None:
    """Divides all parameters but the gates'. The layers of one block of one branch are together for a moment."""
    mesh = init_device_mesh(next(model.parameters()).device.type, (torch.distributed.get_world_size(),))
    blocks: dict[str, dict[int, nn.Module]] = {}
    for node in model.encoder.graph.find_nodes(op="call_module"):
        name = str(node.target)
        layer = model.encoder.get_submodule(name)
        # The lifted network calls layers and no blocks, so blocks are groups of layers.
        if name.startswith("branches.") and any(True for _ in layer.parameters()):
            blocks.setdefault(name.rpartition(".")[0], {})[id(layer)] = layer
    for layers in blocks.values():
        fully_shard(list(layers.values()), mesh=mesh)
    for head in model.heads.values():
        if any(True for _ in head.parameters()):
            fully_shard(head, mesh=mesh)
    # What is left are parameters that the network reads itself.
    fully_shard(model, mesh=mesh, ignored_params=set(gate_parameters(model)))


def _whole(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _part(value: Tensor, like: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return value
    # Every process has the value, so nothing is sent.
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
