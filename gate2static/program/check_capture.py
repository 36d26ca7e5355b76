"""Finds out before training whether the network can become a static one.

What is pruned after training consists of the operators that the backbone and the heads run now. So they are captured
now, as pruning will do it, and every operator is looked up among those that a static network may have.
"""

import contextlib
import re
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from gate2static.errors import PruneError, TraceError
from gate2static.graphs import copy_structure, quiet
from gate2static.program.heads import attach_heads
from gate2static.program.refusals import refuse_written
from gate2static.program.structures import Structure, tensors_of
from gate2static.static.aten_forms import lacks_onnx_form
from gate2static.static.capturing.capture import CAPTURED_BATCH, capture
from gate2static.static.capturing.meta_tensors import META
from gate2static.static.vetting.allowed_operators import target_name
from gate2static.static.vetting.graph_bounds import BoundsError, MixedTypesError, bounds_for, shapes_within

_IN_TRAINING_ONLY = re.compile("dropout|lstm|gru|rnn|attention")


class _Heads(nn.Module):
    """All heads as one module, which takes a backbone's tensors by position and returns those of all heads.

    Args:
        heads: Task -> head.
        structure: The structure in which heads take the tensors.
    """

    def __init__(self, heads: Mapping[str, nn.Module], structure: Structure) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads.values())
        self._structure = structure

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Returns the tensors of all heads, one head after the other."""
        outputs: list[Tensor] = []
        for head in self.heads:
            # Heads may write into what they are given.
            outputs += tensors_of(head(self._structure.build([x.clone() for x in tensors])))
        return tuple(outputs)


def check_capture(
    root: nn.Module,
    graph: fx.Graph,
    heads: Mapping[str, nn.Module],
    inputs: Sequence[Tensor],
    structure: Structure,
    *,
    macs: int,
) -> None:
    """Checks that a backbone and its heads can become a static network.

    Args:
        root: The owner of the modules that the graph calls.
        graph: The traced backbone, without gates; the heads are added to it.
        heads: Task -> head, in eval mode.
        inputs: The tensors that the graph takes, batch first.
        structure: The structure that the backbone returns its tensors in.
        macs: Multiply-accumulates per sample of the backbone and the heads.

    Raises:
        TraceError: They cannot be captured, an operator is not among those that a static network may have, or they take
            more than one may.
    """
    zeros = tuple(
        torch.zeros((CAPTURED_BATCH, *x.shape[1:]) if x.dim() else (), dtype=x.dtype, device=x.device) for x in inputs
    )
    network = _network_of(root, graph, _Heads(heads, structure))
    try:
        captured = capture(network, zeros)
        names = {target_name(node) for node in captured.graph.nodes if node.op == "call_function"}
    except PruneError as error:
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        with torch.no_grad(), contextlib.suppress(Exception):
            network(*zeros)
        refuse_written(network, buffers)
        raise TraceError(f"this network could be trained but not pruned: {error}") from error
    _check_bounds(captured, zeros, macs)
    if random := sorted({str(node.target) for node in captured.graph.nodes if _draws(node)}):
        raise TraceError(
            f"the network draws random numbers in evaluation ({', '.join(random)}), which no static network can equal; "
            "draw them in training only, in a layer that reads self.training."
        )
    if missing := sorted(name for name in names if lacks_onnx_form(name)):
        warnings.warn(
            f"{', '.join(missing)} has no form in ONNX: the static network will run in torch, be saved and be exported "
            "to pt2, but not to ONNX nor to an engine.",
            UserWarning,
            stacklevel=5,
        )


def _check_bounds(captured: fx.GraphModule, zeros: Sequence[Tensor], macs: int) -> None:
    """Refuses a network that could not be loaded once it is saved; pruning makes it no smaller than one backbone.

    Raises:
        TraceError: It takes more than a static network may.
    """
    sample = sum(x[:1].numel() if x.dim() else 1 for x in zeros)
    weights = sum(tensor.numel() for tensor in captured.state_dict().values())
    bounds = bounds_for(inputs=sample, weights=weights, macs=macs)
    try:
        with torch.no_grad(), quiet():
            shapes_within(captured, [x.to(META) for x in zeros], bounds)
    except MixedTypesError:
        return  # heads of another type than the backbone: the gated model may still be converted as a whole
    except BoundsError as error:
        raise TraceError(
            f"this network could be trained and pruned, but not saved: {error}, and `load_static` takes no more. Gate "
            "a smaller network, or one with smaller inputs."
        ) from error


def _network_of(root: nn.Module, graph: fx.Graph, heads: nn.Module) -> fx.GraphModule:
    """Returns a backbone and its heads as one module, without gates."""
    owner = copy_structure(root)
    name = attach_heads(owner, heads)
    (output,) = graph.find_nodes(op="output")
    with graph.inserting_before(output):
        output.args = (graph.call_module(name, tuple(tensors_of(output.args[0]))),)
    return fx.GraphModule(owner, graph).eval()


def _draws(node: fx.Node) -> bool:
    """Returns whether an operator draws random numbers; dropout does not, in evaluation, nor do recurrent layers."""
    tags = getattr(node.target, "tags", ())
    return torch.Tag.nondeterministic_seeded in tags and not _IN_TRAINING_ONLY.search(str(node.target))
