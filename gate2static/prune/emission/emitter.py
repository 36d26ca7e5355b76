"""The static network under construction: the rules write it, and get the channels that they read from its tensors."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx, nn

from gate2static.errors import PruneError
from gate2static.gates.model import SHARED, GatedModel
from gate2static.graphs import copied
from gate2static.program.annotate import info
from gate2static.program.rewrites.out_of_place import clear_inplace_flags
from gate2static.prune.analysis.channel_access import ChannelAccess
from gate2static.prune.analysis.nodes import module_of
from gate2static.prune.analysis.numbering import Numbering
from gate2static.prune.analysis.value import Value
from gate2static.prune.emission.accessed_parts import accessed_parts
from gate2static.prune.emission.arrangement import Arrangement
from gate2static.prune.emission.parts import Parts
from gate2static.prune.emission.training_mode import TrainingMode
from gate2static.prune.emission.writer import MIXES, Writer


class Emitter(Writer):
    """Writes the static network, one node of the program after the other.

    Attributes:
        gated: The model being pruned.
        arrangement: The order of channels, and how they are cut into tensors.
        numberings: The numbering of every node's value.
        parts: The emitted tensors of the nodes so far.
        inputs: The emitted placeholders.
        training: What of training the emitted network has, and what it lacks.
    """

    def __init__(self, gated: GatedModel, numberings: Mapping[fx.Node, Numbering], arrangement: Arrangement) -> None:
        super().__init__()
        self.gated = gated
        self.numberings = numberings
        self.arrangement = arrangement
        self.training = TrainingMode(gated)
        self.parts: dict[fx.Node, Parts] = {}
        self.inputs = [self.graph.placeholder(p.name) for p in gated.program.graph.find_nodes(op="placeholder")]
        self._numberings: dict[Any, Numbering] = {}
        self._accessed: dict[Any, Parts] = {}
        self._modules: dict[str, list[tuple[str, nn.Module]]] = {}
        calls = Counter(node.target for node in gated.program.graph.find_nodes(op="call_module"))
        self._repeated = {target for target, times in calls.items() if times > 1}

    def numbering(self, access: ChannelAccess) -> Numbering:
        """Returns the numbering of an input as it is read."""
        key = (access.node, access.dims)
        if key not in self._numberings:
            self._numberings[key] = access.numbering(self.numberings[access.node])
        return self._numberings[key]

    def accessed(self, access: ChannelAccess) -> Parts:
        """Returns the emitted tensors of an input as it is read."""
        # Two consumers that read along the same dimensions share what that takes.
        key = (access.node, access.dims)
        if key not in self._accessed:
            node = access.node
            self._accessed[key] = accessed_parts(access, self.parts[node], self.numberings[node], self)
        return self._accessed[key]

    def canonical(self, value: Value, stream: int) -> Any:
        """Emits a value as `stream` sees it: all channels, in the shape that the user's code gave it."""
        ids = self.numberings[value.node].views[stream]
        return self.whole_value(value, self.parts[value.node], ids)

    def module(
        self,
        node: fx.Node,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None = None,
        *,
        streams: Iterable[int],
    ) -> fx.Node:
        """Emits a call of a module that stands for the one that `node` calls.

        Where the program calls that one repeatedly, equal modules become one.

        Args:
            node: The node of the program.
            module: The module that is called instead of the node's; what training leaves in evaluation is marked.
            args: The arguments by position.
            kwargs: The arguments by name.
            streams: The numbers of the streams whose parameters the module has; they name it.
        """
        numbers = sorted({int(stream) for stream in streams})
        layers = [layer for stream in numbers if (layer := module_of(self.gated, node, stream)) is not None]
        self.training.mark(node, layers[0] if layers else module, module)
        earlier = self._modules.setdefault(str(node.target), [])
        # The same layer called twice, in a head or a backbone, keeps one set of weights where both calls need the same.
        name = None
        if node.target in self._repeated:
            name = next((name for name, other in earlier if _are_equal(other, module)), None)
        if name is None:
            name = self.keep(module, node, numbers)
            earlier.append((name, module))
        self.training.note_emitted(layers, node, name)
        if node.target in self._repeated:
            self.training.note_repeated(layers, node, module)
        return self.graph.call_module(name, args, dict(kwargs or {}))

    def keep(self, value: nn.Module | nn.Parameter, node: fx.Node, streams: Iterable[int]) -> str:
        """Keeps a module or parameter of the static network, and returns its name.

        That is `layer.stream`, or `layer.stream_stream` where a layer has numbers of several streams; in heads, the
        name that the gated network has for it.

        Args:
            value: The module or parameter.
            node: The node of the program that it stands for.
            streams: The numbers of the streams that it belongs to.
        """
        if len(info(node).streams) == 1:
            return self.keep_as(str(node.target), value)
        names = (*self.gated.tasks, SHARED)
        # Heads and mixes have places of their own.
        layer = f"{node.name}_" if node.name in (MIXES, "heads") else node.name
        return self.keep_as(f"{layer}.{'_'.join(names[stream] for stream in streams) or 'all'}", value)

    def call_like(self, value: Value, stream: int, replacements: Mapping[fx.Node, Any]) -> fx.Node:
        """Emits the operation that makes `value`, for one stream, with its input nodes replaced."""
        node = value.node
        args = fx.map_arg(node.args, lambda n: replacements[n])
        kwargs = fx.map_arg(node.kwargs, lambda n: replacements[n])
        if node.op == "call_module":
            return self.module(node, detached_copy(self.gated, node, stream), args, kwargs, streams=(stream,))
        self.training.note_function(node)
        # A view of what was one tensor may be a view of a slice of one now.
        is_view = node.target == "view" and not isinstance(node.args[-1], torch.dtype)
        return self.graph.create_node(node.op, "reshape" if is_view else node.target, args, kwargs)


def detached_copy(gated: GatedModel, node: fx.Node, stream: int) -> nn.Module:
    """Copies the module that a node calls, in eval mode and out of place.

    Raises:
        PruneError: The module cannot be copied.
    """
    module = module_of(gated, node, stream)
    assert module is not None
    try:
        module = copied(module)
    except RuntimeError as error:
        raise PruneError(f"the layer {node.target} cannot be copied: {str(error).splitlines()[0]}") from error
    clear_inplace_flags(module)
    return module.eval()


def _are_equal(a: nn.Module, b: nn.Module) -> bool:
    """Returns whether two modules made from one have the same tensors and settings."""
    of_a = a.state_dict()
    of_b = b.state_dict()
    tensors = of_a.keys() == of_b.keys() and all(torch.equal(value, of_b[name]) for name, value in of_a.items())
    return tensors and _settings(a) == _settings(b)


def _settings(module: nn.Module) -> list[dict[str, Any]]:
    return [{k: v for k, v in vars(m).items() if isinstance(v, int | float | str | tuple)} for m in module.modules()]
