"""What a rule knows about one node: its channels, where they come from, who needs them, and how to emit them.

`S` is the number of streams of a node: T+1 in the backbone, 1 in a head. A value without known channel dimensions is
opaque: it has one "channel" that stands for the whole value.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

from torch import Tensor, fx

from gate2static.graphs import Ids
from gate2static.program.annotate import Info, info
from gate2static.prune.analysis.channel_access import Reading
from gate2static.prune.analysis.channel_dims import Dims, axis
from gate2static.prune.analysis.numbering import Decisions, Numbering

if TYPE_CHECKING:
    from gate2static.gates.model import GatedModel
    from gate2static.prune.emission.emitter import Emitter
    from gate2static.prune.emission.parts import Pool


class Rule(ABC):
    """One node of a program, seen channel by channel.

    Attributes:
        node: the program's node.
        inputs: how it reads the values that it depends on.
        channels: C of its value; 1 when opaque.
        dims: the channel dimensions of its value; None when opaque.
        keeps_numbers: whether pool channels keep the numbers that they have in the first input's pool.
        ends_unit: whether this is the gate of a unit.
        shares_work: whether its MACs depend on which streams are equal.
    """

    keeps_numbers = False
    ends_unit = False
    shares_work = False

    def __init__(self, node: fx.Node, inputs: Sequence[Reading], channels: int, dims: Dims | None) -> None:
        self.node, self.inputs, self.channels, self.dims = node, tuple(inputs), channels, dims

    @classmethod
    @abstractmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, "Rule"], gated: "GatedModel") -> Self | None:
        """The rule for `node`, or None where it does not apply. `rules` holds those of all earlier nodes."""

    @abstractmethod
    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: "GatedModel") -> Numbering:
        """The node's pool and views from those of its inputs, as they are read, where the gates decide so."""

    @abstractmethod
    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        """Need (S, C) of the value -> need of each input as it is read. `gates` maps units to (T, C) in [0, 1]."""

    def macs(self, need: Tensor, numbering: Numbering | None) -> Tensor:
        """MACs per sample of what is needed; none by default. `numbering` is there where the rule shares work."""
        return need.new_zeros(())

    def live_macs(self, live: Ids, numbering: Numbering) -> int:
        """MACs per sample of the live channels of the pool."""
        return self.info.macs // self.channels * len(live)

    def origins(self, own: Numbering, inputs: Sequence[Numbering]) -> list[tuple[int, Ids]]:
        """Where channels are worked on one by one: an input's number, and for each pool channel that of the input.

        -1 where a pool channel has none. `inputs` are the numberings as they are read. None by default.
        """
        return []

    @abstractmethod
    def emit(self, live: Ids, emitter: "Emitter") -> "Pool":
        """Emit the live channels of the pool, in any order and in any number of parts."""

    @property
    def info(self) -> Info:
        """The node's annotation."""
        return info(self.node)

    @property
    def streams(self) -> int:
        """S."""
        return len(self.info.streams)

    @property
    def dim(self) -> int:
        """Where emitted tensors have the channels."""
        assert self.dims is not None
        return axis(self.dims)
