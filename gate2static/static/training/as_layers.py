"""A captured network -> the same network with layers where training differs from evaluation, and with names.

Norms and dropout of a captured network are operators that are told to evaluate. Here they are layers of torch's again,
so that they follow `train()` and `eval()`, and that what knows such layers, as `convert_sync_batchnorm`, finds them.
Every other operator stays as it is: gradients flow through it.
"""

import keyword
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from gate2static.errors import ArtefactError

_aten = torch.ops.aten
_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")
MIXES = "mixes."
"""How the names of the gates' mixing weights begin."""


class Norm(nn.modules.batchnorm._BatchNorm):
    """A batch norm over (N, C, *positions) with any number of positions.

    It counts no batches, since its momentum is a number.
    """

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  # torch's name
        """Takes all inputs: those of the network were checked when it was captured."""


class ChannelDropout(nn.Module):
    """Drops the channels of (N, C, *positions) in training, each by itself.

    Args:
        p: The probability.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Returns what is left, scaled by 1 / (1 - p)."""
        return torch.feature_dropout(x, self.p, self.training)


def with_layers(network: fx.GraphModule, names: Mapping[str, str]) -> tuple[fx.GraphModule, dict[str, str]]:
    """Writes a captured network with layers.

    Args:
        network: The captured network; it is not changed.
        names: Tensor of the network -> its name in the result. Others keep their names.

    Returns:
        The network with tensors of its own; and tensor of the captured network -> its name in the result.

    Raises:
        ArtefactError: The names come from a file and are none, or a norm's statistics are computed.
    """
    return _Rewrite(network, names).run()


class _Rewrite:
    """One rewriting, see `with_layers`."""

    def __init__(self, network: fx.GraphModule, names: Mapping[str, str]) -> None:
        self.network = network
        self.names = names
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.copies: dict[fx.Node, fx.Node] = {}
        # Tensor of the captured network -> its name in the result.
        self.placed: dict[str, str] = {}
        # Tensors of a norm -> the layer's name.
        self.norms: dict[tuple[str, ...], str] = {}

    def run(self) -> tuple[fx.GraphModule, dict[str, str]]:
        """Returns what `with_layers` returns."""
        for node in self.network.graph.nodes:
            if node.op != "get_attr":
                self.copies[node] = self._copy(node)
        return fx.GraphModule(self.root, self.graph, "TrainableNetwork"), self.placed

    def _copy(self, node: fx.Node) -> fx.Node:
        if node.target is _aten.batch_norm.default and _trains(node):
            return self.graph.call_module(self._norm(node), (self._read(_arguments(node)["input"]),))
        if node.target in (_aten.dropout.default, _aten.feature_dropout.default):
            of_channels = node.target is _aten.feature_dropout.default
            probability = float(_arguments(node)["p"])
            layer = ChannelDropout(probability) if of_channels else nn.Dropout(probability)
            name = self._free(f"dropout_{len(self.copies)}")
            self.root.add_module(name, layer)
            return self.graph.call_module(name, (self._read(_arguments(node)["input"]),))
        return self.graph.node_copy(node, self._read)

    def _read(self, node: Any) -> Any:
        """Returns the copy of a node; a read of a tensor stands where it is first needed."""
        if node not in self.copies:
            self.copies[node] = self.graph.get_attr(self._place(str(node.target)))
        return self.copies[node]

    def _place(self, tensor: str) -> str:
        """Keeps a tensor under its name, and returns that."""
        if tensor not in self.placed:
            name = self._checked(self.names.get(tensor, tensor))
            self._keep(name, getattr(self.network, tensor), is_trained=tensor in self.network._parameters)
            self.placed[tensor] = name
        return self.placed[tensor]

    def _norm(self, node: fx.Node) -> str:
        """Returns the name of the layer that a batch norm becomes; the same for one that is called again."""
        arguments = _arguments(node)
        tensors = [arguments[name] for name in _NORM_TENSORS]
        if any(x is not None and x.op != "get_attr" for x in tensors) or None in tensors[2:]:
            raise ArtefactError(f"the norm {node.name} of the static network computes its statistics; prune again.")
        stored = tuple("" if x is None else str(x.target) for x in tensors)
        if stored not in self.norms:
            mean = getattr(self.network, stored[2])
            layer = Norm(len(mean), float(arguments["eps"]), float(arguments["momentum"]), affine=False)
            layer.num_batches_tracked = None
            layer.affine = bool(stored[0])
            name = self._free(self._checked(self.names.get(stored[2], stored[2])).removesuffix(".running_mean"))
            self._owner(name).add_module(name.rpartition(".")[2], layer)
            for attribute, tensor in zip(_NORM_TENSORS, stored, strict=True):
                if tensor in self.placed:
                    raise ArtefactError(f"the tensor {tensor} of the static network is that of two norms; prune again.")
                if tensor:
                    value = getattr(self.network, tensor).detach().clone()
                    setattr(layer, attribute, value if attribute.startswith("running") else nn.Parameter(value))
                    self.placed[tensor] = f"{name}.{attribute}"
            self.norms[stored] = name
        return self.norms[stored]

    def _keep(self, name: str, value: Tensor, *, is_trained: bool) -> None:
        owner = self._owner(name)
        leaf = name.rpartition(".")[2]
        if hasattr(owner, leaf):
            raise ArtefactError(f"the static network has two tensors named {name}; prune again.")
        if is_trained:
            trains = value.is_floating_point() and not name.startswith(MIXES)
            owner.register_parameter(leaf, nn.Parameter(value.detach().clone(), requires_grad=trains))
        else:
            owner.register_buffer(leaf, value.detach().clone())

    def _owner(self, name: str) -> nn.Module:
        """Returns the module that has what a name says, which is made where there is none."""
        owner = self.root
        for step in name.split(".")[:-1]:
            if step not in owner._modules:
                if hasattr(owner, step):
                    raise ArtefactError(f"the static network cannot have a layer named {name}; prune again.")
                owner.add_module(step, nn.Module())
            owner = owner.get_submodule(step)
        return owner

    def _free(self, name: str) -> str:
        """Returns a name that nothing has yet."""
        while _has(self.root, name):
            name += "_"
        return name

    def _checked(self, name: str) -> str:
        """Refuses names that are not words with dots between: they become code.

        Raises:
            ArtefactError: The name of a tensor is none.
        """
        steps = name.split(".")
        if not all(re.fullmatch(r"\w+", step, re.ASCII) and not keyword.iskeyword(step) for step in steps):
            raise ArtefactError(f"the static network's manifest calls a tensor {name[:60]!r}; prune again.")
        return name


def _trains(norm: fx.Node) -> bool:
    """Returns whether a norm of an evaluated network trains; a momentum of zero says that it does not."""
    arguments = _arguments(norm)
    return not arguments["training"] and bool(arguments["momentum"])


def _arguments(node: fx.Node) -> dict[str, Any]:
    """Returns the arguments of an operator by the names of its schema."""
    names = (argument.name for argument in node.target._schema.arguments)  # type: ignore[union-attr]  # an operator
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _has(root: nn.Module, name: str) -> bool:
    """Returns whether a module has something under a dotted name."""
    for step in name.split("."):
        if not hasattr(root, step):
            return False
        root = getattr(root, step)
    return True
