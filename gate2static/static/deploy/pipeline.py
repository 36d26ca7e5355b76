"""The deployed form of a captured network: the passes, in their order, and the contract that they keep.

The static network is what pruning proves: its weights are slices of the trained ones. The deployed form computes the
same function in fewer or faster operators; `verify` checks both.

1. `remove_dropout`: what passes on its operand, and only says what training does, goes.
2. `fold_constants`: what depends on stored tensors alone is computed once.
3. `fold_norms`: batch norms become part of the convolutions before them.
4. `write_moves_as_convolutions`, where asked for: channels of images never leave the layout of convolutions.
5. `write_token_moves_as_rows`, where asked for: channels of tokens are moved as rows of positions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor, fx, nn

from gate2static.static.aten import annotate
from gate2static.static.capturing.capture import store
from gate2static.static.deploy.fold_constants import fold_constants
from gate2static.static.deploy.fold_norms import fold_norms
from gate2static.static.deploy.moves_as_convolutions import write_moves_as_convolutions
from gate2static.static.deploy.remove_dropout import remove_dropout
from gate2static.static.deploy.token_moves_as_rows import write_token_moves_as_rows
from gate2static.static.layer_labels import LABELS, note_labels, noted_labels


@dataclass(frozen=True)
class DeployPass:
    """One pass over a captured network.

    Attributes:
        rewrite: Rewrites the network in place and returns whether it changed anything. What it writes computes the same
            function.
        requires_shapes: Whether it reads shapes (`aten.shape_of`): the pipeline annotates what earlier passes wrote.
        wanted_by: The field of the manifest that asks for it; None where every deployed form has it.
    """

    rewrite: Callable[[fx.GraphModule], bool]
    requires_shapes: bool = False
    wanted_by: str | None = None


DEPLOY = (
    DeployPass(remove_dropout),
    # Constants first: a weight that is computed from parameters becomes one tensor, which a norm can be folded into.
    DeployPass(fold_constants),
    DeployPass(fold_norms),
    DeployPass(write_moves_as_convolutions, requires_shapes=True, wanted_by="convolve_moves"),
    DeployPass(write_token_moves_as_rows, requires_shapes=True, wanted_by="channels_first"),
)
"""The passes, in their order."""


def deploy(
    network: fx.GraphModule,
    examples: tuple[Tensor, ...] = (),
    *,
    convolve_moves: bool = False,
    channels_first: bool = False,
    layers: Mapping[str, str] = MappingProxyType({}),
) -> fx.GraphModule:
    """Makes the deployed form of a captured network.

    Args:
        network: The captured network, which is not changed.
        examples: The network's inputs, batch first; needed where a wanted pass requires shapes.
        convolve_moves: Whether convolutions move the channels of images.
        channels_first: Whether the channels of tokens move as rows of positions.
        layers: Name of a tensor -> its name in the manifest.

    Returns:
        A copy that owns the tensors it still uses, numbered in the order of use. Nodes keep the shapes that were noted
        on them, so annotating the copy runs new nodes only. Its `meta[LABELS]` are the labels of its layers.
    """
    wanted = {
        None: True,
        "convolve_moves": convolve_moves,
        "channels_first": channels_first,
    }
    deployed = _with_own_graph(network)
    note_labels(deployed, layers)
    for deploy_pass in DEPLOY:
        if not wanted[deploy_pass.wanted_by]:
            continue
        if deploy_pass.requires_shapes:
            annotate(deployed, examples)
        if deploy_pass.rewrite(deployed):
            deployed.graph.eliminate_dead_code()
    own = _with_own_tensors(deployed)
    own.meta[LABELS] = noted_labels(own)
    return own


def _with_own_graph(network: fx.GraphModule) -> fx.GraphModule:
    """Copies a network's graph and shares its tensors."""
    graph = fx.Graph()
    outputs = graph.graph_copy(network.graph, {})
    graph.output(outputs)
    return fx.GraphModule(network, graph, "StaticNetwork")


def _with_own_tensors(network: fx.GraphModule) -> fx.GraphModule:
    """Copies a network with only the tensors still in use, each once, numbered in the order of use."""
    root = nn.Module()
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    new_names: dict[str, str] = {}
    for node in network.graph.nodes:
        if node.op != "get_attr":
            copies[node] = graph.node_copy(node, copies.__getitem__)
            continue
        name = str(node.target)
        if name not in new_names:
            is_trained = name in network._parameters
            new_names[name] = store(root, getattr(network, name), trained=is_trained)
        copies[node] = graph.get_attr(new_names[name])
    return fx.GraphModule(root, graph, "StaticNetwork")
