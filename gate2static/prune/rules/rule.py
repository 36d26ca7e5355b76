"""What a rule knows about one node: its channels, where they come from, who needs them, and how to emit them.

Pruning is two analyses on channels. *Numbering* gives every base value a pool of physical channels and each stream a
view, an index vector into that pool: streams whose views name the same pool channel share it. *Demand* runs backwards
and says which channels of which streams are needed. Both are exact for 0/1 gates; demand also accepts probabilities,
with products for "and" and complements for "or", which is what makes the cost differentiable.

`S` is the number of streams of a node: T+1 in the backbone, 1 in a head. A value without a known channel dimension is
opaque: it has one "channel" that stands for the whole value.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor, fx, nn

from gate2static.gates.lift import owns_state
from gate2static.gates.shapes import Info, info

if TYPE_CHECKING:
    from gate2static.gates.model import GatedModel
    from gate2static.prune.physical import Emitter, Pool

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Numbering:
    """The pool of one value.

    Attributes:
        views: (S, C) pool channel that each stream reads as its channel c.
        size: number of channels in the pool, live or not.
        rows: (size, k) what each pool channel is made of; columns are the rule's own.
    """

    views: Ids
    size: int
    rows: Ids | None = None


class Rule(ABC):
    """One node of a program, seen channel by channel.

    Attributes:
        node: the program's node.
        inputs: the rules of the tensors it reads, in the order of its own `operands`.
        channels: C of its value; 1 when opaque.
        dim: the channel dimension of its value; None when opaque.
        keeps_numbers: whether pool channels keep the numbers that they have in the input's pool.
        ends_unit: whether this is the gate of a unit.
    """

    keeps_numbers = False
    ends_unit = False

    def __init__(self, node: fx.Node, inputs: Sequence["Rule"], channels: int, dim: int | None) -> None:
        self.node, self.inputs, self.channels, self.dim = node, tuple(inputs), channels, dim

    @classmethod
    @abstractmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, "Rule"], gated: "GatedModel") -> Self | None:
        """The rule for `node`, or None where it does not apply. `rules` holds those of all earlier nodes."""

    @abstractmethod
    def number(self, inputs: Sequence[Numbering], gated: "GatedModel") -> Numbering:
        """The node's pool and views from those of its inputs."""

    @abstractmethod
    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        """Need (S, C) of the value -> need of each input, in its own (S, C). `gates` maps units to (T, C) in [0, 1]."""

    def macs(self, need: Tensor, numbering: Numbering | None) -> Tensor:
        """MACs per sample of what is needed; none by default."""
        return need.new_zeros(())

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


def module_of(gated: "GatedModel", node: fx.Node, stream: int) -> nn.Module | None:
    """The module a node calls for its stream number `stream`; None for other nodes."""
    return owner_of(gated, node, stream).get_submodule(str(node.target)) if node.op == "call_module" else None


def owner_of(gated: "GatedModel", node: fx.Node, stream: int) -> nn.Module:
    """The module that the names in `node` are relative to."""
    if len(info(node).streams) == 1:
        return gated
    return list(gated.branches.values())[stream]


def has_state(gated: "GatedModel", node: fx.Node) -> bool:
    """Whether each stream has its own parameters for the node."""
    return owns_state(owner_of(gated, node, 0), node)


def either(a: Tensor, b: Tensor) -> Tensor:
    """Probability of a or b; exact for 0 and 1."""
    return a + b - a * b


def any_of(need: Tensor, dim: int) -> Tensor:
    """Probability that at least one along `dim` is needed, keeping the dimension; exact for 0 and 1."""
    return 1 - (1 - need).prod(dim, keepdim=True)


def unique_rows(rows: Ids, views_shape: tuple[int, int]) -> Numbering:
    """A pool of the distinct rows; `rows` lists them stream by stream, channel by channel."""
    distinct, inverse = np.unique(rows, axis=0, return_inverse=True)
    return Numbering(inverse.reshape(views_shape).astype(np.int64), len(distinct), distinct)


def as_channels(rule: Rule, numbering: Numbering, dim: int) -> Ids:
    """Views of an input along `dim`, also where it is opaque: whole value k has the channels k·C … k·C+C-1."""
    if rule.dim is not None:
        return numbering.views
    count = channels_along(rule, dim)
    return numbering.views * count + np.arange(count)


def channels_along(rule: Rule, dim: int) -> int:
    """C of an input when read along `dim`."""
    shape = rule.info.shape or ()
    return rule.channels if rule.dim is not None else shape[dim]


def channels_along_output(node: fx.Node, dim: int) -> int:
    """C of a node's value along `dim`."""
    shape = info(node).shape
    assert shape is not None
    return shape[dim]


def need_of(rule: Rule, need: Tensor) -> Tensor:
    """A need given channel by channel, as the input's own rule expects it: one value where it is opaque."""
    return need if rule.dim is not None else any_of(need, 1)


def tensor_inputs(node: fx.Node) -> list[fx.Node]:
    """The node's inputs that are tensors."""
    return [n for n in node.all_input_nodes if info(n).shape is not None]


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An argument of a call, whether it was given by position or by name; `self` or the input is position 0.

    Nodes whose value is a known constant, such as a read of a size, are replaced by it.
    """
    value = node.args[position] if len(node.args) > position else node.kwargs.get(name, default)
    return fx.map_arg(value, lambda n: n if info(n).constant is None else info(n).constant)
