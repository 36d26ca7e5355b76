"""The cost of operators without a rule."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from gate2static.gates.model import gate_decisions
from gate2static.prune.analysis.nodes import module_of
from gate2static.prune.plan import ChannelPlan
from gate2static.prune.rules import Barrier


@dataclass(frozen=True, kw_only=True)
class BarrierCost:
    """The barriers that run one operator.

    Attributes:
        operator: The class of the module, or the name of the function.
        nodes: Their names.
        macs: The MACs per sample that they have themselves in the static network.
        behind: The MACs per sample of other layers whose results only these barriers read; a rule could save at most
            this.
    """

    operator: str
    nodes: tuple[str, ...]
    macs: int
    behind: int


def barriers(channels: ChannelPlan) -> Iterator[fx.Node]:
    """Yields the live nodes without a rule that compute, or that read channels and so need all of them."""
    for node, rule in channels.rules.items():
        reads_channels = any(source.value.dims for source in rule.inputs)
        if isinstance(rule, Barrier) and len(channels.live[node]) and (rule.info.macs or reads_channels):
            yield node


def barrier_costs(channels: ChannelPlan) -> list[BarrierCost]:
    """Returns what each kind of barrier costs, the dearest first."""
    # One line per operator: a network often repeats the one that has no rule.
    by_operator: dict[str, list[fx.Node]] = {}
    for node in barriers(channels):
        by_operator.setdefault(_operator(channels, node), []).append(node)
    costs = []
    for operator, nodes in by_operator.items():
        macs = channels.macs(nodes)
        behind = channels.macs() - macs - _macs_without(channels, nodes)
        costs.append(BarrierCost(operator=operator, nodes=tuple(n.name for n in nodes), macs=macs, behind=behind))
    return sorted(costs, key=lambda cost: -(cost.macs + cost.behind))


def _macs_without(channels: ChannelPlan, nodes: list[fx.Node]) -> int:
    """Returns the MACs of all other nodes where these read nothing."""
    decisions = {unit: decision.double().cpu() for unit, decision in gate_decisions(channels.gated).items()}
    needs = channels.analysis.need(decisions, blind=nodes)
    others = [(node, rule) for node, rule in channels.rules.items() if node not in nodes]
    return int(sum(rule.macs(needs[node], channels.numberings[node]) for node, rule in others))


def _operator(channels: ChannelPlan, node: fx.Node) -> str:
    if node.op == "call_module":
        return type(module_of(channels.gated, node, 0)).__name__
    return str(getattr(node.target, "__name__", node.target))
