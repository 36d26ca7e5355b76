"""Layouts: how planned channels become layers and copies. They change the time, not what is computed.

A network is slower than its MACs say where tensors are cut and put together between the layers, and where layers are
narrow. Which layout pays depends on the gates and the backend (docs/latency.md): working once on the channels that
streams have in common pays where they share much; cutting layers into blocks, which saves all copies, pays where blocks
are wide.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gate2static.arguments import described
from gate2static.errors import PruneError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Options of the emission and of the deployed form.

    Attributes:
        share_work: Channels that streams have in common are worked on once. Otherwise every stream is put together
            after each gate and worked on as a whole.
        block_channels: Layers are cut into blocks that are read whole (`blocks`) where these have so many channels on
            average; 0 for never.
        convolve_moves: The deployed form moves channels by convolutions (`static/deploy/moves_as_convolutions.py`).
        channels_first: The deployed form moves the channels of tokens as rows, where that pays
            (`static/deploy/token_moves_as_rows.py`).
    """

    share_work: bool = True
    block_channels: int = 64
    convolve_moves: bool = False
    channels_first: bool = False


@dataclass(frozen=True, kw_only=True)
class Target:
    """The place where a network is to run.

    Attributes:
        layouts: The layouts to try; the pruner keeps the one whose deployed form seems to move the least data.
        align: Layers keep a multiple of this many output channels.
    """

    layouts: tuple[Layout, ...]
    align: int = 1


LAYOUT = Layout()
"""The layout of `prune` when nothing else is asked."""

PLAIN = Layout(share_work=False, block_channels=0)
"""The layout that puts every stream back together after each unit."""

_STREAMS_APART = replace(LAYOUT, share_work=False)
_CONVOLVED = replace(PLAIN, convolve_moves=True)

TARGETS: Mapping[str, Target] = {
    "any": Target(layouts=(LAYOUT,)),
    "ort-cpu": Target(
        layouts=tuple(replace(layout, channels_first=True) for layout in (LAYOUT, _STREAMS_APART, _CONVOLVED))
    ),
    # OpenVINO's fusion of convolutions into grouped ones fails on some networks whose tensors are cut (2026.4).
    "openvino": Target(layouts=(replace(LAYOUT, block_channels=16), replace(_STREAMS_APART, block_channels=16))),
    # Tensor cores take half-precision channels in eights; layers that are filled up are not cut into blocks.
    "trt": Target(layouts=(replace(LAYOUT, block_channels=0), PLAIN), align=8),
}
"""By the name that `prune --target` takes."""


def find_target(target: str | Layout) -> Target:
    """Returns the target of a name; a layout is a target that tries nothing else.

    Raises:
        PruneError: There is no target of that name.
    """
    if isinstance(target, Layout):
        return Target(layouts=(target,))
    if not isinstance(target, str) or target not in TARGETS:
        raise PruneError(f"unknown target {described(target)}; allowed: {', '.join(TARGETS)}.")
    return TARGETS[target]
