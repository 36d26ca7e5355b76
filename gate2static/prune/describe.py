"""The manifest of a pruning's result."""

import keyword
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import version

import torch
from torch import fx, nn

from gate2static.gates.model import SHARED, gate_decisions
from gate2static.program.annotate import info
from gate2static.program.value_ranges import ValueRange
from gate2static.prune.barriers import barriers
from gate2static.prune.other_sizes import DIMS
from gate2static.prune.plan import Plan
from gate2static.static.aten import dtype_of, shape_of
from gate2static.static.capturing.capture import ORIGINS
from gate2static.static.folder import digest, serialise
from gate2static.static.manifest import Costs, Manifest, Pruning, TensorSpec


def describe(
    plan: Plan,
    network: fx.GraphModule,
    dtype: torch.dtype,
    *,
    converted: bool,
    free_dims: Sequence[tuple[int, ...]],
    lacks_in_training: Mapping[str, str],
) -> Manifest:
    """Returns what a static network says about itself.

    Args:
        plan: What was applied.
        network: The captured network, annotated.
        dtype: The floating-point dtype of its inputs.
        converted: Whether all its floating-point numbers were converted to that.
        free_dims: The dimensions of each output that follow free sizes; empty where no size is free.
        lacks_in_training: Layer of the gated network -> what it does in training that the static network does not.
    """
    channels = plan.channels
    gated = channels.gated
    analysis = channels.analysis
    program = gated.program
    inputs = zip(program.input_names, program.graph.find_nodes(op="placeholder"), program.ranges, strict=True)
    tasks = tuple(program.heads)
    rows = [gated.tasks.index(task) for task in tasks]
    decisions = {unit: decision.int()[rows].tolist() for unit, decision in gate_decisions(gated).items()}
    heads = _parameters(nn.ModuleList(gated.heads[task] for task in tasks))
    branches = {stream: _parameters(branch) for stream, branch in gated.branches.items()}
    return Manifest(
        tasks=tasks,
        inputs=tuple(_input(name, node, dtype, values, plan.dynamic) for name, node, values in inputs),
        outputs=_outputs(tuple(analysis.outputs), network, free_dims),
        gates={unit: ["".join(map(str, row)) for row in of_unit] for unit, of_unit in decisions.items()},
        contributions={unit: _picked(gate.contributions(), rows) for unit, gate in gated.gates.items()},
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
            separate=sum(branches[task] for task in tasks) + heads,
        ),
        barriers={node.name: channels.macs([node]) for node in barriers(channels)},
        convolve_moves=plan.layout.convolve_moves,
        channels_first=plan.layout.channels_first,
        pruning=Pruning(
            align=channels.align,
            layout={field.name: getattr(plan.layout, field.name) for field in fields(plan.layout)},
            dtype=_name(dtype) if converted else None,
            dynamic=plan.dynamic,
        ),
        versions={
            "gate2static": version("gate2static"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        digest=digest(*serialise(network)),
        layers={tensor: _words(name) for tensor, name in network.meta[ORIGINS].items()},
        lacks_in_training=dict(lacks_in_training),
    )


def _input(
    name: str, placeholder: fx.Node, dtype: torch.dtype, values: ValueRange | None, dynamic: Sequence[str]
) -> TensorSpec:
    value = info(placeholder)
    assert value.shape is not None
    assert value.dtype is not None
    static_dtype = dtype if value.dtype.is_floating_point else value.dtype
    shape = value.shape[1:]
    free = tuple(sorted(DIMS[dim] for dim in dynamic)) if len(shape) == 3 else ()
    return TensorSpec(name=name, shape=shape, dtype=_name(static_dtype), values=values, dynamic=free)


def _outputs(
    names: tuple[str, ...], network: fx.GraphModule, free_dims: Sequence[tuple[int, ...]]
) -> tuple[TensorSpec, ...]:
    (output,) = network.graph.find_nodes(op="output")
    shapes = [shape_of(node) or () for node in output.args[0]]
    dtypes = [dtype_of(node) for node in output.args[0]]
    free = [tuple(d - 1 for d in dims) for dims in free_dims] or [()] * len(names)
    return tuple(
        TensorSpec(name=name, shape=shape[1:], dtype=_name(dtype), dynamic=dynamic)
        for name, shape, dtype, dynamic in zip(names, shapes, dtypes, free, strict=True)
    )


def _words(name: str) -> str:
    """Returns a name of words with dots between, as code may have."""
    steps = (re.sub(r"\W", "_", step, flags=re.ASCII) for step in name.split("."))
    return ".".join(f"{step}_" if keyword.iskeyword(step) else step for step in steps)


def _picked(values: Sequence[float], rows: Sequence[int]) -> list[float]:
    return [values[row] for row in rows]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
