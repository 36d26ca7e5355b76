"""The deployed form of a captured network: the passes, in their order, and the contract that they keep.

The static network is what pruning proves: its weights are slices of the trained ones. The deployed form computes the
same function in fewer or faster operators; `verify` checks both.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, fx, nn

from gate2static.static.aten import annotate
from gate2static.static.capture import store
from gate2static.static.deploy.fold_constants import fold_constants
from gate2static.static.deploy.fold_norms import fold_norms
from gate2static.static.deploy.moves_as_convolutions import convolve_moves
from gate2static.static.deploy.token_moves_as_rows import move_tokens_as_rows


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
    DeployPass(fold_constants),
    DeployPass(fold_norms),
    DeployPass(convolve_moves, requires_shapes=True, wanted_by="convolve_moves"),
    DeployPass(move_tokens_as_rows, requires_shapes=True, wanted_by="channels_first"),
)
"""Constants first: a weight that is computed from parameters becomes one tensor, which a norm can be folded into."""


def deploy(
    network: fx.GraphModule,
    examples: tuple[Tensor, ...] = (),
    *,
    convolve_moves: bool = False,
    channels_first: bool = False,
) -> fx.GraphModule:
    """Makes the deployed form of a captured network.

    Args:
        network: Not changed.
        examples: Its inputs, for passes that require shapes.
        convolve_moves: Whether channels are moved by convolutions.
        channels_first: Whether the channels of tokens are moved as rows.

    Returns:
        A copy that owns the tensors it still uses, numbered in the order of use.
    """
    wanted = {None: True, "convolve_moves": convolve_moves, "channels_first": channels_first}
    graph = fx.Graph()
    graph.output(graph.graph_copy(network.graph, {}))
    deployed = fx.GraphModule(network, graph, "StaticNetwork")
    for deploy_pass in DEPLOY:
        if not wanted[deploy_pass.wanted_by]:
            continue
        if deploy_pass.requires_shapes:
            annotate(deployed, examples)
        if deploy_pass.rewrite(deployed):
            deployed.graph.eliminate_dead_code()
    return _renumbered(deployed)


def _renumbered(network: fx.GraphModule) -> fx.GraphModule:
    """Copies a network with only the tensors still in use, each once, numbered in the order of use."""
    root = nn.Module()
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    names: dict[str, str] = {}
    for node in network.graph.nodes:
        if node.op != "get_attr":
            copies[node] = graph.node_copy(node, copies.__getitem__)
            continue
        name = str(node.target)
        if name not in names:
            names[name] = store(root, getattr(network, name), trained=name in network._parameters)
        copies[node] = graph.get_attr(names[name])
    return fx.GraphModule(root, graph, "StaticNetwork")
