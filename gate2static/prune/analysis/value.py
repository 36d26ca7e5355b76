"""A value of the program, seen channel by channel."""

from dataclasses import dataclass

from torch import fx

from gate2static.program.annotate import NodeInfo, info
from gate2static.prune.analysis.channel_dims import Dims, axis


@dataclass(frozen=True, kw_only=True, eq=False)
class Value:
    """The value that one node of the program computes.

    A value without known channel dimensions is *opaque*: it has one "channel", which stands for the whole value.

    Attributes:
        node: The program's node.
        channels: C, the number of channels; 1 where the value is opaque.
        dims: The dimensions along which the channels lie, in the shape that the user's code gave the value; None where
            the value is opaque.
    """

    node: fx.Node
    channels: int
    dims: Dims | None

    @property
    def info(self) -> NodeInfo:
        """The node's annotation."""
        return info(self.node)

    @property
    def shape(self) -> tuple[int, ...]:
        """The canonical shape at batch size 2; empty for what is no tensor."""
        return self.info.shape or ()

    @property
    def streams(self) -> int:
        """S, the number of streams: T+1 in the backbone, 1 in a head."""
        return len(self.info.streams)

    @property
    def dim(self) -> int:
        """The dimension along which emitted tensors of the value have their channels."""
        assert self.dims is not None
        return axis(self.dims)
