"""Writes the graph of the network that settled gates leave."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from gate2static.gates.channel_gate import Gate
from gate2static.gates.lift import named_modules, take
from gate2static.gates.settled.demand import Ids
from gate2static.gates.settled.layers import PickChannels


class NetworkWriter:
    """Writes nodes of a network that uses the layers and gates of a gated model.

    Args:
        branches: Stream -> its copy of the backbone, the shared stream last.
        gates: Unit -> its gate.
    """

    def __init__(self, branches: Mapping[str, nn.Module], gates: Mapping[str, Gate]) -> None:
        self._device = next(iter(gates.values())).alpha.device
        self._graph = fx.Graph()
        self._root = nn.Module()
        self._root.branches = named_modules(branches)
        self._root.gates = named_modules(gates)
        # Modules that only this network has.
        self._root.made = nn.Module()
        self._copies: dict[Any, fx.Node] = {}

    def copy(self, node: fx.Node, branch: str, inputs: Mapping[fx.Node, fx.Node | None]) -> fx.Node:
        """Copies a node on other inputs, once for the same inputs.

        Args:
            node: The node of the program.
            branch: The stream whose modules and parameters the copy uses.
            inputs: Input of the node -> the input of the copy.

        Returns:
            The copy.
        """
        key = (node, branch, *inputs.values())
        if key not in self._copies:
            copied = self._graph.node_copy(node, inputs.__getitem__)
            if node.op in ("call_module", "get_attr"):
                copied.target = f"branches.{branch}.{node.target}"
            self._copies[key] = copied
        return self._copies[key]

    def call_gate(self, unit: str, streams: Sequence[fx.Node | None]) -> list[fx.Node]:
        """Calls the whole gate of a unit and returns its streams."""
        call = self._graph.call_module(f"gates.{unit}", tuple(streams))
        return self._items(call, len(streams))

    def call(self, name: str, module: nn.Module, *inputs: fx.Node) -> fx.Node:
        """Adds a module to the network and calls it.

        Args:
            name: The beginning of the module's name.
            module: The module.
            inputs: The nodes that it is called on.

        Returns:
            The node of the call.
        """
        parent = self._root.get_submodule("made")
        unique_name = f"{name}_{len(parent._modules)}"
        parent.add_module(unique_name, module)
        return self._graph.call_module(f"made.{unique_name}", inputs)

    def pick(self, source: fx.Node, dim: int, picks: list[Ids], count: int) -> list[fx.Node]:
        """Returns tensors with some channels of another tensor, or that tensor for all its channels in order.

        Args:
            source: The tensor to pick from.
            dim: Its channel dimension.
            picks: For each of the tensors, its channels.
            count: The number of channels of the source.
        """
        if len(picks) == 1 and np.array_equal(picks[0], np.arange(count)):
            return [source]
        module = PickChannels(dim, [self.index(channels) for channels in picks])
        return self._items(self.call("picks", module, source), len(picks))

    def index(self, channels: Ids) -> Tensor:
        """Returns channels as a tensor on the device of the gates."""
        return torch.from_numpy(np.ascontiguousarray(channels)).to(self._device)

    def finish(self, output: Any) -> fx.GraphModule:
        """Returns the network, without what its output does not need."""
        self._graph.output(output)
        self._graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
        self._graph.lint()
        return fx.GraphModule(self._root, self._graph, "SettledLift")

    def _items(self, call: fx.Node, count: int) -> list[fx.Node]:
        return [self._graph.call_function(take, (call, i)) for i in range(count)]
