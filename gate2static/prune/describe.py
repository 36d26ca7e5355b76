"""The manifest of a pruning's result."""

import platform
from importlib.metadata import version

import torch
from torch import fx, nn

from gate2static.gates.model import SHARED, gate_decisions
from gate2static.program.annotate import info
from gate2static.prune.barriers import barriers
from gate2static.prune.plan import Plan
from gate2static.static.folder import digest, serialise
from gate2static.static.manifest import Costs, Manifest, TensorSpec


def describe(plan: Plan, network: fx.GraphModule, dtype: torch.dtype) -> Manifest:
    """Returns what a static network says about itself.

    Args:
        plan: What was applied.
        network: The captured network.
        dtype: Its floating-point dtype.
    """
    channels = plan.channels
    gated = channels.gated
    analysis = channels.analysis
    placeholders = gated.program.graph.find_nodes(op="placeholder")
    decisions = {unit: decision.int().tolist() for unit, decision in gate_decisions(gated).items()}
    heads = _parameters(gated.heads)
    branches = {stream: _parameters(branch) for stream, branch in gated.branches.items()}
    return Manifest(
        tasks=gated.tasks,
        inputs=tuple(_spec(node.name, node, dtype) for node in placeholders),
        outputs=tuple(_spec(task, node, dtype) for task, node in analysis.outputs.items()),
        gates={unit: ["".join(map(str, row)) for row in rows] for unit, rows in decisions.items()},
        contributions={unit: gate.contributions() for unit, gate in gated.gates.items()},
        macs=Costs(
            static=channels.macs(),
            # all T+1 branches, as training runs them
            gated=sum(rule.info.macs * rule.streams for rule in channels.rules.values()),
            shared=analysis.macs_of_constant_gates(specific=False),
            separate=analysis.macs_of_constant_gates(specific=True),
        ),
        parameters=Costs(
            static=_parameters(network),
            gated=_parameters(gated),
            # The baselines as static networks: all gates shared, all gates task-specific.
            shared=branches[SHARED] + heads,
            separate=sum(branches[task] for task in gated.tasks) + heads,
        ),
        barriers={node.name: channels.macs([node]) for node in barriers(channels)},
        convolve_moves=plan.layout.convolve_moves,
        channels_first=plan.layout.channels_first,
        versions={
            "gate2static": version("gate2static"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        digest=digest(*serialise(network)),
    )


def _spec(name: str, node: fx.Node, dtype: torch.dtype) -> TensorSpec:
    value = info(node)
    assert value.shape is not None
    assert value.dtype is not None
    static_dtype = dtype if value.dtype.is_floating_point else value.dtype
    return TensorSpec(name=name, shape=value.shape[1:], dtype=str(static_dtype).removeprefix("torch."))


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
