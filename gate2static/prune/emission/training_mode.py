"""What a gated network does in training, as far as the static network is to do it again.

A static network keeps what of training is a flag of an operator: batch norms, which use the statistics of the batch and
follow them, and dropout of numbers or of channels. Norms and dropout that training leaves in evaluation are marked by a
momentum or a probability of zero. Everything else that training does is named, so that `StaticModel.trainable` can
refuse it.
"""

import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn
from torch.nn import functional as F

from gate2static.gates.model import GatedModel
from gate2static.graphs import copy_structure
from gate2static.program.annotate import info
from gate2static.program.operators import RUNNING_NORMS
from gate2static.program.rewrites.in_training import InTraining

NUMBER_DROPOUT = (nn.Dropout,)
"""Layers that drop numbers, each by itself."""
CHANNEL_DROPOUT = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
"""Layers that drop the channels of (N, C, *positions), each by itself."""
_SHARED_WEIGHTS = "is used more than once, with weights that are one in training"
_OTHER_RANDOM = (nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU)


class TrainingMode:
    """The training of a gated network, looked at while its static network is emitted.

    Attributes:
        lacks: Layer -> what it does in training that the static network does not.
    """

    def __init__(self, gated: GatedModel) -> None:
        self.lacks: dict[str, str] = {}
        self._gated = gated
        heads = copy_structure(gated.heads).train()
        self._of_heads = {name: module.training for name, module in heads.named_modules(prefix="heads")}
        # Identity of a parameter -> node -> the emitted layers that have numbers of it.
        self._emitted: dict[int, dict[fx.Node, set[str]]] = {}
        # Heads are traced in evaluation only, so what their code does in training is not in the program.
        for name, module in gated.heads.named_modules(prefix="heads"):
            if self._of_heads[name]:
                self.note(name, code_reason(module) or layer_reason(module))

    def trains(self, node: fx.Node, inside: str = "") -> bool:
        """Returns whether a module that a node calls, or one inside it, is in training mode when the network trains."""
        name = f"{node.target}.{inside}".rstrip(".")
        modes: Mapping[str, bool] = self._of_heads if len(info(node).streams) == 1 else self._gated._modes
        while name and name not in modes:
            # Layers that the trace made follow the module in which they stand.
            name = name.rpartition(".")[0]
        return modes.get(name, True)

    def mark(self, node: fx.Node, layer: nn.Module, module: nn.Module) -> None:
        """Marks norms and dropout that training leaves in evaluation, and notes what the static network lacks.

        Args:
            node: The node that calls the layer.
            layer: The gated network's own layer, of one stream.
            module: What is emitted for it, changed in place.
        """
        for name, part in module.named_modules():
            if not self.trains(node, name):
                _freeze(part)
        if len(info(node).streams) > 1:
            self.note_layer(node, layer)

    def note_layer(self, node: fx.Node, layer: nn.Module) -> None:
        """Notes what a layer of the backbone does in training that the static network does not."""
        for name, part in layer.named_modules():
            if self.trains(node, name):
                reason = layer_reason(part) or (code_reason(part) if not isinstance(part, InTraining) else "")
                self.note(f"{node.target}.{name}".rstrip("."), reason)

    def note_function(self, node: fx.Node) -> None:
        """Notes a function of the network's own code whose flag says what it does in training."""
        if node.op == "call_function" and node.target in (F.batch_norm, F.instance_norm):
            self.note(node.name, f"calls {getattr(node.target, '__name__', 'a norm')} as a function")

    def note_emitted(self, layers: Iterable[nn.Module], node: fx.Node, name: str) -> None:
        """Notes parameters that several layers of the static network have numbers of, and that are one in training.

        Args:
            layers: The gated network's own layers.
            node: The node that calls them.
            name: The name of the emitted layer.
        """
        for parameter in (p for layer in layers for p in layer.parameters()):
            self.note_tensor(parameter, node, name)

    def note_repeated(self, layers: Sequence[nn.Module], node: fx.Node, module: nn.Module) -> None:
        """Notes a layer that is called more than once and of which a call needs only a part.

        Other calls may need other parts, which equal numbers do not tell apart.

        Args:
            layers: The gated network's own layers.
            node: The node that calls them.
            module: What is emitted for them.
        """
        shapes = [p.shape for p in layers[0].parameters()] if layers else []
        if len(layers) > 1 or shapes != [p.shape for p in module.parameters()]:
            self.note(str(node.target), _SHARED_WEIGHTS)

    def note_tensor(self, parameter: Tensor, node: fx.Node, name: str) -> None:
        """Notes a parameter that an emitted layer has numbers of; see `note_emitted`."""
        # Pieces of one call have different numbers of a parameter; several calls may have the same.
        by_node = self._emitted.setdefault(id(parameter), {})
        by_node.setdefault(node, set()).add(name)
        if len(by_node) > 1 and len(set.union(*by_node.values())) > 1:
            self.note(str(node.target), _SHARED_WEIGHTS)

    def note(self, name: str, reason: str) -> None:
        """Notes what a layer does in training that the static network does not; "" notes nothing."""
        if reason:
            self.lacks.setdefault(name, reason)


def layer_reason(layer: nn.Module) -> str:
    """Returns what one of torch's layers does in training that a static network does not; "" for nothing."""
    name = type(layer).__name__
    options: Any = layer
    if isinstance(layer, InTraining):
        return "computes something in training alone"
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        # The momentum is where the static network says that a norm does not train.
        has_mark = layer.running_mean is not None and not layer.momentum
        return f"is a {name} whose momentum is {layer.momentum}" if has_mark else ""
    if isinstance(layer, RUNNING_NORMS):
        return f"is a {name} that follows running statistics" if options.running_mean is not None else ""
    if isinstance(layer, _OTHER_RANDOM) and getattr(layer, "p", 1.0) > 0:
        return f"is a {name}, which draws random numbers"
    if isinstance(layer, nn.MultiheadAttention | nn.RNNBase) and layer.dropout > 0:
        return f"is a {name} with dropout"
    if type(layer).__module__ == "torch.nn.modules.transformer":
        return f"is a {name} that stays whole"
    return ""


def code_reason(module: nn.Module) -> str:
    """Returns why the code of a module that is not torch's may do something else in training; "" where it does not."""
    if type(module).__module__.startswith("torch.nn.") or isinstance(module, nn.modules.batchnorm._BatchNorm):
        return ""
    # Stochastic depth and the like, switched off.
    probabilities = [getattr(module, name, None) for name in ("drop_prob", "p", "prob", "drop_path_prob")]
    if any(value is not None for value in probabilities) and not any(probabilities):
        return ""
    methods = [
        function
        for kind in type(module).__mro__
        if not kind.__module__.startswith("torch.nn.")
        for function in vars(kind).values()
        if isinstance(function, types.FunctionType)
    ]
    names = {name for function in methods for name in _names(function.__code__)}
    if "training" in names:
        return f"is a {type(module).__name__}, whose code reads `training`"
    if names & {"batch_norm", "instance_norm"}:
        return f"is a {type(module).__name__}, whose code calls a norm as a function"
    return ""


def _names(code: types.CodeType) -> Iterator[str]:
    """Yields the names that code reads, in functions inside it too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _freeze(layer: nn.Module) -> None:
    """Marks a norm or dropout as one that does in training what it does in evaluation."""
    options: Any = layer
    if isinstance(layer, nn.modules.batchnorm._BatchNorm) and isinstance(layer.running_mean, Tensor):
        options.momentum = 0.0
    if isinstance(layer, (*NUMBER_DROPOUT, *CHANNEL_DROPOUT)):
        options.p = 0.0
