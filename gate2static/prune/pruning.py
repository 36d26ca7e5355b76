"""`prune`: the road from a gated model to a static one."""

import platform
from importlib.metadata import version

import torch
from torch import Tensor, fx, nn

from gate2static.gates.model import GatedModel
from gate2static.program.annotate import info
from gate2static.program.program import gated_unit
from gate2static.prune.analysis.analyse import outputs
from gate2static.prune.analysis.barriers import barriers
from gate2static.prune.analysis.macs import constant_gate_macs
from gate2static.prune.emission.emit import Plan, emit, plan
from gate2static.prune.emission.layout import Lowering, lowerings_for
from gate2static.static.capture import capture, sketch
from gate2static.static.deploy.fold_norms import fold
from gate2static.static.deploy.traffic_cost import movement_cost
from gate2static.static.manifest import Costs, Manifest, TensorSpec
from gate2static.static.model import StaticModel, digest, serialise


def prune(
    gated: GatedModel, *, align: int = 1, target: str | Lowering = "any", dtype: torch.dtype | None = None
) -> StaticModel:
    """Cut away every channel that no task picked (GatedMTL, section 3.1, and all that follows from it).

    The static model computes what `gated` computes in eval mode, in one pass. Its weights are slices of the gated
    model's, bit for bit; `StaticModel.fold_norms` makes the form that is deployed.

    Args:
        gated: not changed.
        align: layers keep a multiple of this many output channels; channels that only fill up are computed and not
            read.
        target: where the network is to run, "any", "ort-cpu", "openvino" or "trt", which decides how it is laid out;
            or the passes themselves. What is computed, and its MACs, are the same, but for the target's alignment.
        dtype: of the static model; the gated model's when absent.

    Returns:
        The static model, on the CPU.

    Raises:
        PruneError: an impossible alignment, an unknown target, or a network that torch.export cannot follow.
    """
    floating = next(gated.parameters()).dtype if dtype is None else dtype
    examples = _examples(gated, floating)
    lowerings = lowerings_for(target, align)
    if len(lowerings) > 1 and not _is_on_images(gated):  # nothing to convolve, and trying takes as long as pruning
        lowerings = tuple(how for how in lowerings if not how.convolve_moves)
    plans = [plan(gated, lowering=lowering) for lowering in lowerings]
    made = [(decided, emit(gated, decided).cpu().to(floating)) for decided in plans]
    if len(made) > 1:
        made.sort(key=lambda tried: _movement(tried[0], tried[1], examples))
    decided, emitted = made[0]
    network = capture(emitted, examples)
    return StaticModel(network, _describe(gated, decided, network, floating))


def _movement(decided: Plan, emitted: fx.GraphModule, examples: tuple[Tensor, ...]) -> float:
    """The cost of the deployed form."""
    how = decided.lowering
    network = sketch(emitted, examples)
    return movement_cost(fold(network, examples, convolve=how.convolve_moves, first=how.channels_first), examples)


def _is_on_images(gated: GatedModel) -> bool:
    """Whether most gates decide for channels that have positions behind them."""
    nodes = gated.program.graph.find_nodes(op="call_function", target=gated_unit)
    return 2 * sum(len(info(node).shape or ()) > 1 + gated.gates[str(node.args[1])].dim for node in nodes) > len(nodes)


_EXPORTED_BATCH = 3
"""Not 2: code that reads a size of 2 elsewhere would tie it to the batch."""


def _examples(gated: GatedModel, floating: torch.dtype) -> tuple[Tensor, ...]:
    made = []
    for node in gated.program.graph.find_nodes(op="placeholder"):
        known = info(node)
        assert known.shape is not None  # `gate` takes tensors only
        assert known.dtype is not None
        kind = floating if known.dtype.is_floating_point else known.dtype
        made.append(torch.zeros((_EXPORTED_BATCH, *known.shape[1:]), dtype=kind))
    return tuple(made)


def _describe(gated: GatedModel, decided: Plan, network: nn.Module, floating: torch.dtype) -> Manifest:
    def spec(name: str, node: fx.Node) -> TensorSpec:
        known = info(node)
        assert known.shape is not None
        assert known.dtype is not None
        kind = floating if known.dtype.is_floating_point else known.dtype
        return TensorSpec(name=name, shape=known.shape[1:], dtype=str(kind).removeprefix("torch."))

    gates = {name: gate.decisions().int().tolist() for name, gate in gated.gates.items()}
    branches = gated.branches
    heads, shared = _count(gated.heads), _count(branches["shared"])
    separate = sum(_count(branches[task]) for task in gated.tasks)
    return Manifest(
        tasks=gated.tasks,
        inputs=tuple(spec(p.name, p) for p in gated.program.graph.find_nodes(op="placeholder")),
        outputs=tuple(spec(task, node) for task, node in outputs(gated).items()),
        gates={name: ["".join(map(str, row)) for row in rows] for name, rows in gates.items()},
        contributions={name: gate.contributions() for name, gate in gated.gates.items()},
        macs=Costs(
            static=decided.macs(),
            gated=sum(rule.info.macs * rule.streams for rule in decided.rules.values()),
            shared=constant_gate_macs(gated, specific=False),
            separate=constant_gate_macs(gated, specific=True),
        ),
        parameters=Costs(static=_count(network), gated=_count(gated), shared=shared + heads, separate=separate + heads),
        barriers={node.name: decided.macs([node]) for node in barriers(decided)},
        convolve_moves=decided.lowering.convolve_moves,
        channels_first=decided.lowering.channels_first,
        versions={
            "gate2static": version("gate2static"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        digest=digest(*serialise(network)),  # type: ignore[arg-type]
    )


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
