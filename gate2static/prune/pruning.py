"""`prune`: the road from a gated model to a static one."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx
from torch.nn.utils.parametrize import is_parametrized

from gate2static.arguments import described
from gate2static.errors import PruneError
from gate2static.gates.model import GatedModel, gated_model
from gate2static.gates.plain_layers import with_plain_layers
from gate2static.graphs import quiet
from gate2static.program.annotate import info
from gate2static.program.units import gated_unit
from gate2static.prune.analyse import analyse
from gate2static.prune.describe import describe
from gate2static.prune.emission.layout import Layout, find_target
from gate2static.prune.emit import LACKS, emit
from gate2static.prune.estimate import dtype_of, examples_of, traffic
from gate2static.prune.other_sizes import at_other_sizes, check_dynamic
from gate2static.prune.plan import ChannelPlan, Plan, check_align, keep_needed
from gate2static.prune.present import as_it_is, for_tasks
from gate2static.static.aten import annotate
from gate2static.static.capturing.capture import capture, captured_at_sizes
from gate2static.static.model import StaticModel

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def prune(
    gated: GatedModel,
    *,
    align: int = 1,
    target: str | Layout = "any",
    dtype: torch.dtype | str | None = None,
    dynamic: Sequence[str] = (),
    tasks: Sequence[str] | None = None,
) -> StaticModel:
    """Cuts away every channel that no task picked (GatedMTL, section 3.1, and all that follows from it).

    The static model computes what `gated` computes in eval mode, in one pass. Its weights are slices of the gated
    model's, bit for bit; `StaticModel.deployed` makes the form that is deployed.

    Args:
        gated: Not changed.
        align: Layers keep a multiple of this many output channels; channels that only fill up are computed and not
            read.
        target: Where the network is to run, "any", "ort-cpu", "openvino" or "trt", which decides how it is laid out;
            or a layout. What is computed, and its MACs, are the same, but for the target's alignment.
        dtype: The type that all floating-point numbers of the static network are converted to, or its name, such as
            "float16". When absent, parameters and buffers keep the types that they have, whatever these are.
        dynamic: The sizes of images that are to be free, "height" and "width": the static network takes any, where
            nothing in the network depends on them. Its MACs are those of the example inputs.
        tasks: The tasks that the static network has; when absent, all. What it computes for them is the same, and
            only what they need remains: their own channels, and all that the shared stream mixes for them.

    Returns:
        The static model, on the CPU.

    Raises:
        PruneError: No gated model, an impossible alignment or dtype, an unknown target or task, a network that cannot
            be captured, numbers in it that are not finite, or modules that were replaced since it was gated.
    """
    floating = None if dtype is None else _floating(dtype)
    chosen = plan(gated, align=align, target=target, dynamic=dynamic, tasks=tasks)
    return apply(chosen, dtype=floating)


@quiet()
def plan(
    gated: GatedModel,
    *,
    align: int = 1,
    target: str | Layout = "any",
    dynamic: Sequence[str] = (),
    tasks: Sequence[str] | None = None,
) -> Plan:
    """Decides what `prune` does with these arguments, and changes nothing.

    Raises:
        PruneError: An impossible alignment, an unknown target, size or task, or a network that cannot be captured.
    """
    present = for_tasks(as_it_is(gated_model(gated, error=PruneError)), tasks)
    parametrized = tuple(name for name, layer in present.named_modules() if is_parametrized(layer))
    gated = with_plain_layers(present)
    check_dynamic(dynamic)
    check_align(align)
    place = find_target(target)
    channels = keep_needed(analyse(gated), align=math.lcm(align, place.align))
    layouts = place.layouts
    if dynamic:
        # Tokens moved as rows have their positions in the graph.
        layouts = tuple(dict.fromkeys(replace(layout, channels_first=False) for layout in layouts))
    layout = _cheapest_layout(channels, layouts)
    return Plan(channels=channels, layout=layout, dynamic=tuple(dynamic), parametrized=parametrized)


def _floating(dtype: Any) -> torch.dtype:
    """Returns a floating-point dtype, which may be given by its name."""
    named = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(named, torch.dtype) or named not in _DTYPES:
        allowed = ", ".join(str(allowed).removeprefix("torch.") for allowed in _DTYPES)
        raise PruneError(f"dtype is {described(dtype)}; allowed are torch's {allowed}, or their names.")
    return named


@quiet()
def apply(plan: Plan, *, dtype: torch.dtype | None = None) -> StaticModel:
    """Builds the static model that a plan describes.

    Args:
        plan: What to build.
        dtype: The type of all its floating-point numbers; when absent, the types that they have.

    Raises:
        PruneError: A network that cannot be captured, or that holds numbers that are not finite.
    """
    gated = plan.channels.gated
    _check_finite(gated)
    floating = dtype_of(gated) if dtype is None else dtype
    examples = examples_of(gated, floating)
    emitted = _emitted(plan.channels, plan.layout, dtype)
    lacks = {**dict.fromkeys(plan.parametrized, "has parametrized weights"), **emitted.meta[LACKS]}
    free_dims: list[tuple[int, ...]] = []
    if plan.dynamic:
        others = at_other_sizes(gated, plan.dynamic)
        networks = [_emitted(keep_needed(analyse(o), align=plan.channels.align), plan.layout, dtype) for o in others]
        sizes = [examples, *(examples_of(other, floating) for other in others)]
        network, free_dims = captured_at_sizes([emitted, *networks], sizes)
    else:
        network = capture(emitted, examples)
    annotate(network, examples)
    described = describe(
        plan, network, floating, converted=dtype is not None, free_dims=free_dims, lacks_in_training=lacks
    )
    return StaticModel(network, described)


def _emitted(channels: ChannelPlan, layout: Layout, dtype: torch.dtype | None) -> fx.GraphModule:
    network = emit(channels, layout).cpu()
    # Slices are converted once, as a whole: each number is rounded at most once on its way to the static network.
    return network if dtype is None else network.to(dtype)


def _check_finite(gated: GatedModel) -> None:
    """Refuses weights that make every output NaN.

    Raises:
        PruneError: A parameter is not finite, or a buffer holds NaN; in masks infinity is common.
    """
    broken = [name for name, p in gated.named_parameters() if p.is_floating_point() and not bool(p.isfinite().all())]
    broken += [name for name, b in gated.named_buffers() if b.is_floating_point() and bool(b.isnan().any())]
    if broken:
        others = f" and {len(broken) - 1} others" if len(broken) > 1 else ""
        raise PruneError(
            f"{broken[0]}{others} of the gated network hold numbers that are not finite (NaN or infinity), so its "
            "outputs are none; training has diverged: take an earlier checkpoint, such as ckpt-best.pt."
        )


def _cheapest_layout(channels: ChannelPlan, layouts: tuple[Layout, ...]) -> Layout:
    """Returns the layout whose deployed form seems to move the least data; the first of equal ones."""
    if len(layouts) > 1 and not _is_on_images(channels.gated):
        # Without positions behind the channels there is nothing to convolve, and trying takes as long as pruning.
        layouts = tuple(layout for layout in layouts if not layout.convolve_moves)
    if len(layouts) == 1:
        return layouts[0]
    # Each candidate is emitted, captured and deployed for the comparison.
    return min(layouts, key=lambda layout: traffic(channels, layout))


def _is_on_images(gated: GatedModel) -> bool:
    """Returns whether most gates decide for channels that have positions behind them."""
    gates = gated.program.graph.find_nodes(op="call_function", target=gated_unit)
    on_images = [node for node in gates if len(info(node).shape or ()) > 1 + gated.gates[str(node.args[1])].dim]
    return 2 * len(on_images) > len(gates)
