"""Estimates of how fast a network will be, before it is pruned: from the traffic of its deployed form."""

import torch
from torch import Tensor

from gate2static.gates.model import GatedModel, gate_decisions, set_gates
from gate2static.graphs import copied, quiet
from gate2static.program.annotate import info
from gate2static.prune.analyse import analyse
from gate2static.prune.emission.layout import Layout
from gate2static.prune.emit import emit
from gate2static.prune.plan import ChannelPlan, Plan, keep_needed
from gate2static.static.aten import annotate
from gate2static.static.capturing.capture import CAPTURED_BATCH, capture
from gate2static.static.deploy.pipeline import deploy
from gate2static.static.deploy.traffic_cost import traffic_cost


@quiet()
def estimated_latency(plan: Plan) -> float:
    """Returns the estimated latency of a planned network over that of T separate networks, on ONNX Runtime's CPU.

    The estimate ranks layouts, and was fitted on whole networks (`static/deploy/traffic_cost.py`); it may be wrong by a
    tenth or two.

    Raises:
        PruneError: The network cannot be captured.
    """
    decisions = torch.cat([d.flatten() for d in gate_decisions(plan.channels.gated).values()])
    if decisions.all():
        return 1.0  # separate networks themselves
    separate = copied(plan.channels.gated)
    set_gates(separate, True)
    whole = keep_needed(analyse(separate), align=1)
    return traffic(plan.channels, plan.layout) / traffic(whole, plan.layout)


def traffic(channels: ChannelPlan, layout: Layout) -> float:
    """Returns the estimated cost of the deployed form of a layout (`traffic_cost`)."""
    examples = examples_of(channels.gated, dtype_of(channels.gated))
    network = capture(emit(channels, layout).cpu(), examples)
    deployed = deploy(network, examples, convolve_moves=layout.convolve_moves, channels_first=layout.channels_first)
    annotate(deployed, examples)
    return traffic_cost(deployed)


def dtype_of(gated: GatedModel) -> torch.dtype:
    """Returns the dtype of a model's parameters."""
    return next(gated.parameters()).dtype


def examples_of(gated: GatedModel, floating: torch.dtype) -> tuple[Tensor, ...]:
    """Returns zeros of the inputs' shapes."""
    examples = []
    for node in gated.program.graph.find_nodes(op="placeholder"):
        value = info(node)
        assert value.shape is not None  # `gate` takes tensors only
        assert value.dtype is not None
        dtype = floating if value.dtype.is_floating_point else value.dtype
        examples.append(torch.zeros((CAPTURED_BATCH, *value.shape[1:]), dtype=dtype))
    return tuple(examples)
