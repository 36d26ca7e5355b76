"""The contract of a rule: what is known about one kind of node, channel by channel.

A rule says which channels a node has (`match`), where they come from (`number`), which channels of its inputs they need
(`need_of_inputs`), what they cost (`macs`) and how they are emitted (`emit`). Only the rules know operators; the
analysis and the emission walk the program and ask them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from torch import Tensor, fx

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.prune.analysis.channel_access import ChannelAccess
from gate2static.prune.analysis.numbering import Decisions, Numbering
from gate2static.prune.analysis.rearrangement import Rearrangement
from gate2static.prune.analysis.value import Value
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Parts


@dataclass(frozen=True)
class Matches:
    """The rules of a program while they are found.

    Attributes:
        gated: The model.
        rules: The rules of all earlier nodes.
        rearrangements: How operators that only move data move it, by what they do: blocks of a network repeat each
            other, and finding out takes running the operator.
    """

    gated: GatedModel
    rules: "dict[fx.Node, Rule]" = field(default_factory=dict)
    rearrangements: dict[Any, Rearrangement | None] = field(default_factory=dict)

    def __getitem__(self, node: Any) -> "Rule":
        """Returns the rule of an earlier node."""
        return self.rules[node]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rule(Value, ABC):
    """One node of a program: the value that it computes, and how.

    Attributes:
        inputs: How it reads the values that it depends on.
        keeps_numbers: Whether channels that no two streams share keep the numbers that they have in the first input's
            pool. So a layer's channels have the same numbers up to the gate of its unit.
        ends_unit: Whether this is the gate of a unit.
    """

    inputs: tuple[ChannelAccess, ...]

    keeps_numbers: ClassVar[bool] = False
    ends_unit: ClassVar[bool] = False

    @property
    def shares_work(self) -> bool:
        """Whether its MACs depend on which streams are equal."""
        return False

    @classmethod
    @abstractmethod
    def match(cls, node: fx.Node, earlier: Matches) -> Self | None:
        """Returns the rule for `node`, or None where it does not apply."""

    @abstractmethod
    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        """Numbers the value's channels where the gates decide so.

        `inputs` are the numberings of its inputs as they are read.
        """

    @abstractmethod
    def need_of_inputs(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        """Turns the need (S, C) of the value into that of each input as it is read.

        `gates` maps units to (T, C) in [0, 1].
        """

    def macs(self, need: Tensor, numbering: Numbering | None) -> Tensor:
        """Returns the MACs per sample of what is needed; none by default.

        `numbering` is given where the rule shares work.
        """
        return need.new_zeros(())

    def live_macs(self, live: Ids, numbering: Numbering) -> int:
        """Returns the MACs per sample of the live channels of the pool."""
        return self.info.macs // self.channels * len(live)

    def origins(self, of_value: Numbering, inputs: Sequence[Numbering]) -> list[tuple[int, Ids]]:
        """Returns where channels are worked on one by one; nowhere by default.

        Args:
            of_value: The value's numbering.
            inputs: The numberings of the inputs as they are read.

        Returns:
            The number of an input, and (size,) for each pool channel that of the input; -1 where it has none.
        """
        return []

    @abstractmethod
    def emit(self, live: Ids, emitter: Emitter) -> Parts:
        """Emits the live channels of the pool, in any order and in any number of parts."""
