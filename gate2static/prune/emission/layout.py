"""How a plan becomes layers and copies: choices that change the time, and not what is computed.

A network is slower than its MACs say where tensors are cut and put together between the layers, and where layers are
narrow. Which passes pay depends on the gates and the backend (docs/latency.md): working on common channels once pays
where streams share much, cutting layers into blocks, which saves all copies, where blocks are wide.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gate2static.errors import PruneError


@dataclass(frozen=True, kw_only=True)
class Lowering:
    """Passes of the emission; each can be switched off alone.

    Attributes:
        merge_layers: streams that read the same channels run as one layer.
        order_channels: a layer's channels are ordered by who reads them, so that what a stream reads lies together.
        permute_weights: a layer reads channels as they lie, with its weights permuted, where it would else need them
            in their canonical order.
        share_elementwise: channels that streams have in common are worked on once; else every stream is put together
            after each gate and worked on as a whole.
        block_channels: layers are cut into blocks that are read whole (`blocks`), where these have so many channels on
            average; 0 for never.
        convolve_moves: the deployed form moves channels by convolutions (`convolve`).
        channels_first: the deployed form moves channels that come last as rows, where that pays (`channels_first`).
        align: layers keep a multiple of this many output channels.
    """

    merge_layers: bool = True
    order_channels: bool = True
    permute_weights: bool = True
    share_elementwise: bool = True
    block_channels: int = 64
    convolve_moves: bool = False
    channels_first: bool = False
    align: int = 1


LOWERING = Lowering()
"""What `prune` does when nothing else is asked."""

PLAIN = Lowering(
    merge_layers=False, order_channels=False, permute_weights=False, share_elementwise=False, block_channels=0
)
"""Every stream is put back into canonical order after each unit."""

_APART = replace(LOWERING, share_elementwise=False)
_CONVOLVED = replace(_APART, merge_layers=False, order_channels=False, block_channels=0, convolve_moves=True)
TARGETS: Mapping[str, tuple[Lowering, ...]] = {
    "any": (LOWERING,),
    "ort-cpu": tuple(replace(passes, channels_first=True) for passes in (LOWERING, _APART, _CONVOLVED)),
    # Its fusion of convolutions into grouped ones fails on some networks whose tensors are cut (2026.4).
    "openvino": (replace(LOWERING, block_channels=16), replace(_APART, block_channels=16)),
    # Tensor cores take half-precision channels in eights; layers that fill up are not cut into blocks.
    "trt": (replace(LOWERING, align=8, block_channels=0), replace(_APART, align=8, block_channels=0)),
}
"""By the name that `prune --target` takes: what is tried; the network that seems to move the least data is kept."""


def lowerings_for(target: str | Lowering, align: int = 1) -> tuple[Lowering, ...]:
    """The passes to try for a target, with layers in multiples of `align` channels as well.

    Raises:
        PruneError: an unknown target or an impossible alignment.
    """
    if not isinstance(align, int) or align < 1:
        raise PruneError(f"align is {align}; it counts channels and must be at least 1.")
    if isinstance(target, str) and target not in TARGETS:
        raise PruneError(f"unknown target {target!r}; allowed: {', '.join(TARGETS)}.")
    found = TARGETS[target] if isinstance(target, str) else (target,)
    return tuple(replace(passes, align=math.lcm(align, passes.align)) for passes in found)
