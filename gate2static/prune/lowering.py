"""How a plan becomes layers and copies: choices that change the time, and neither the function nor the MACs."""

from dataclasses import dataclass


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
        block_channels: layers are cut into blocks that are read whole, where these have so many channels on average;
            0 for never.
    """

    merge_layers: bool = True
    order_channels: bool = True
    permute_weights: bool = True
    share_elementwise: bool = True
    block_channels: int = 64


LOWERING = Lowering()
"""What `prune` does when nothing else is asked."""

PLAIN = Lowering(
    merge_layers=False, order_channels=False, permute_weights=False, share_elementwise=False, block_channels=0
)
"""Every stream is put back into canonical order after each unit."""
