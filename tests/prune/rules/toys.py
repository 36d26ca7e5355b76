"""Toy networks of four channels and two tasks, whose views fit on a line.

Every toy begins with a unit called `first`, of four channels. Its gates show every case there is:

    channel    0       1       2       3
    task a     own     own     shared  shared
    task b     own     shared  own     shared

The layer numbers its channels 0 to 3 for task a, 4 to 7 for task b and 8 to 11 for the shared stream. Its gate adds the
mixed channels 12 to 15. So the three streams read, behind the gate, what `VIEWS` says. In channel 3 both tasks took the
shared stream's, so the mix is that channel.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from gate2static.gates import GatedModel, gate, set_gates, weight_parameters
from gate2static.gates.model import gate_decisions
from gate2static.program.annotate import NodeInfo
from gate2static.prune.analyse import ChannelAnalysis, analyse
from gate2static.prune.analysis.numbering import Numbering
from gate2static.prune.analysis.value import Value
from gate2static.prune.emission.layout import LAYOUT, Layout
from gate2static.prune.plan import keep_needed
from gate2static.prune.rules import Rule
from gate2static.prune.rules.gate import GateRule
from tests import zoo

TASKS = ("a", "b")
GATES = ("1100", "1010")
"""The gates of `first`, task by task: 1 where the task takes its own channel."""
VIEWS = [
    [0, 1, 10, 11],  # task a: two of its own, two of the shared stream's
    [4, 9, 6, 11],  # task b
    [12, 13, 14, 11],  # the shared stream: three mixtures, and the channel that both tasks took
]
"""What the streams read behind `first`."""
OWN = ("1111", "1111")
"""Gates with which every task keeps its own channels."""
SHARED = ("0000", "0000")
"""Gates with which every task takes the shared stream's channels."""

Layer = Callable[[Tensor], Tensor]
R = TypeVar("R", bound=Rule)


class After(nn.Module):
    """A layer of four channels, `first`, and what comes behind it.

    Args:
        then: What is looked at, called on the four channels.
        last: What follows, if anything.
        tokens: Whether `first` is a linear layer on tokens (N, L, C) and not a convolution on images (N, C, H, W).
    """

    def __init__(self, then: Layer, last: Layer | None = None, *, tokens: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4) if tokens else nn.Conv2d(3, 4, 1)
        self.then = then
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        then = self.then(self.first(x))
        return then if self.last is None else self.last(then)


@dataclass(frozen=True, repr=False)
class Toy:
    """A gated toy network, in float64 and eval mode.

    Attributes:
        gated: The model.
        analysis: The rules of its nodes.
        x: A batch of two inputs.
    """

    gated: GatedModel
    analysis: ChannelAnalysis
    x: Tensor

    def rules(self, kind: type[R]) -> list[R]:
        """Returns the rules of one kind, in program order."""
        return [rule for rule in self.analysis.rules.values() if type(rule) is kind]

    def rule(self, kind: type[R]) -> R:
        """Returns the first rule of a kind behind the gate of `first`, or the first of all where there is none."""
        rules = self.rules(kind)
        names = [node.name for node in self.analysis.rules]
        behind = [rule for rule in rules if names.index(rule.node.name) > names.index("gated_unit")]
        return (behind or rules)[0]

    def numbering(self, rule: Rule) -> Numbering:
        """Returns the numbering of a node's value."""
        return self.analysis.number(gate_decisions(self.gated))[rule.node]

    def views(self, rule: Rule) -> list[list[int]]:
        """Returns the pool channel that each stream reads as its channel c, one list per stream."""
        views: list[list[int]] = self.numbering(rule).views.tolist()
        return views

    def live(self, rule: Rule) -> list[int]:
        """Returns the pool channels that the static network computes."""
        live: list[int] = keep_needed(self.analysis).live[rule.node].tolist()
        return live

    def need_of_inputs(self, rule: Rule, *need: str) -> list[list[str]]:
        """Returns the need of each input, one string per stream; so is `need` written."""
        gates = {unit: decision.double() for unit, decision in gate_decisions(self.gated).items()}
        return [bits(of_input) for of_input in rule.need_of_inputs(needed(*need), gates)]

    def macs(self, rule: Rule, *need: str) -> int:
        """Returns the MACs per sample of a need, written as in `need_of_inputs`."""
        return int(rule.macs(needed(*need), self.numbering(rule)))

    def origins(self, rule: Rule) -> list[tuple[int, list[int]]]:
        """Returns the origins of a node's pool channels."""
        numberings = self.analysis.number(gate_decisions(self.gated))
        inputs = [source.numbering(numberings[source.node]) for source in rule.inputs]
        return [(number, ids.tolist()) for number, ids in rule.origins(numberings[rule.node], inputs)]

    def static(self, layout: Layout = LAYOUT) -> fx.GraphModule:
        """Emits the static network, and checks that it equals the gated one and costs what was predicted."""
        static = zoo.check_exact(self.gated, self.x, layout)
        assert isinstance(static, fx.GraphModule)
        return static


def make_toy(
    backbone: nn.Module,
    gates: Mapping[str, Sequence[str]] | None = None,
    *,
    heads: Callable[[], nn.Module] = nn.Identity,
    shape: Sequence[int] | None = None,
    **options: Any,
) -> Toy:
    """Gates a backbone for two tasks, with random weights.

    Args:
        backbone: The backbone; `After` unless there is a reason.
        gates: Unit -> a string of gates per task, for every unit but `first`, which has `GATES` when absent.
        heads: Makes a head.
        shape: The shape of the input; that of two images or, for tokens, of two times five tokens when absent.
        options: More options of `gate`.
    """
    is_tokens = isinstance(getattr(backbone, "first", None), nn.Linear)
    x = torch.randn(shape or ((2, 5, 3) if is_tokens else (2, 3, 6, 6)))
    by_task = {task: heads() for task in TASKS}
    gated = gate(backbone.eval(), tasks=TASKS, example_inputs=(x,), heads=by_task, **options)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for parameter in weight_parameters(gated):
            parameter.normal_()
        zoo.randomise(gated)
    patterns = {"first": GATES, **(gates or {})}
    assert set(patterns) == set(gated.gates), f"say the gates of {set(gated.gates)}"
    set_gates(gated, {unit: needed(*pattern) > 0 for unit, pattern in patterns.items()})
    gated = gated.double()
    return Toy(gated, analyse(gated), x.double())


def kinds_of(*layers: Layer, tokens: bool = False) -> list[type]:
    """Returns the kind of rule that each layer gets, called on what `first` computes.

    The gate that ends a unit is looked through. Of a layer that is several nodes, the last counts.
    """
    backbone = After(_Branches(layers), tokens=tokens).eval()
    x = torch.randn((2, 5, 3) if tokens else (2, 3, 6, 6))
    gated = gate(backbone, tasks=TASKS, example_inputs=(x,), heads={task: _First() for task in TASKS})
    rules = analyse(gated).rules
    kinds = []
    for node in pytree.tree_leaves(gated.program.features):
        rule = rules[node]
        if isinstance(rule, GateRule):
            rule = rules[rule.inputs[0].node]
        kinds.append(type(rule))
    return kinds


def make_value(shape: Sequence[int], dims: Sequence[int] | None, name: str = "x") -> Value:
    """Makes a value of three streams with channels along `dims`, which no network computes.

    Args:
        shape: Its shape at batch size 2, batch first.
        dims: Its channel dimensions; None for an opaque value.
        name: The name of its node.
    """
    node = fx.Graph().placeholder(name)
    node.meta["info"] = NodeInfo(streams=(0, 1, 2), shape=tuple(shape), batch_multiple=1, batch_dims=(0,))
    channels = 1 if dims is None else math.prod(shape[d] for d in dims)
    return Value(node=node, channels=channels, dims=None if dims is None else tuple(dims))


def needed(*rows: str) -> Tensor:
    """Writes a need: ("1000", "0001") for two streams that need their first and their last channel."""
    return torch.tensor([[float(bit) for bit in row] for row in rows], dtype=torch.float64)


def bits(need: Tensor) -> list[str]:
    """Reads a 0/1 need, one string per stream; the reverse of `needed`."""
    assert bool(((need == 0) | (need == 1)).all())
    return ["".join(str(int(bit)) for bit in row) for row in need]


def calls(network: fx.GraphModule) -> list[str]:
    """Returns what a network calls, in order: the class of a module, the name of a function or method."""
    names = []
    for node in network.graph.nodes:
        if node.op == "call_module":
            names.append(type(network.get_submodule(str(node.target))).__name__)
        elif node.op in ("call_function", "call_method"):
            names.append(str(getattr(node.target, "__name__", node.target)))
    return names


def layers(network: nn.Module, kind: type[nn.Module]) -> list[Any]:
    """Returns a network's layers of a kind, in order."""
    return [module for module in network.modules() if isinstance(module, kind)]


class _Branches(nn.Module):
    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layers = layers
        self.registered = nn.ModuleList(layer for layer in layers if isinstance(layer, nn.Module))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(x) for layer in self.layers)


class _First(nn.Module):
    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return features[0]
