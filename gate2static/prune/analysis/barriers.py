"""What operators without a rule cost."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from gate2static.gates.model import GatedModel
from gate2static.prune.analysis.analyse import demand
from gate2static.prune.emission.emit import Plan
from gate2static.prune.rules import Barrier


@dataclass(frozen=True, kw_only=True)
class BarrierCost:
    """The barriers that run one operator.

    Attributes:
        operator: class of the module, or name of the function.
        nodes: their names.
        macs: per sample, of their own in the static network.
        behind: MACs per sample of other layers whose results only these barriers read; a rule could save at most this.
    """

    operator: str
    nodes: tuple[str, ...]
    macs: int
    behind: int


def barriers(plan: Plan) -> Iterator[fx.Node]:
    """The live nodes without a rule that compute, or that read channels and so need all of them."""
    for node, rule in plan.rules.items():
        reads_channels = any(reading.rule.dims for reading in rule.inputs)
        if isinstance(rule, Barrier) and len(plan.live[node]) and (rule.info.macs or reads_channels):
            yield node


def barrier_costs(gated: GatedModel, plan: Plan) -> list[BarrierCost]:
    """What each kind of barrier costs, the dearest first."""
    kinds: dict[str, list[fx.Node]] = {}
    for node in barriers(plan):
        kinds.setdefault(_operator(gated, node), []).append(node)
    costs = []
    for operator, nodes in kinds.items():
        own, without = plan.macs(nodes), _macs_without(gated, plan, nodes)
        costs.append(
            BarrierCost(
                operator=operator, nodes=tuple(n.name for n in nodes), macs=own, behind=plan.macs() - own - without
            )
        )
    return sorted(costs, key=lambda cost: -(cost.macs + cost.behind))


def _macs_without(gated: GatedModel, plan: Plan, nodes: list[fx.Node]) -> int:
    """MACs of all other nodes where these read nothing."""
    decisions = {name: gate.decisions().double().cpu() for name, gate in gated.gates.items()}
    needs = demand(gated, plan.rules, decisions, blind=nodes)
    others = ((node, rule) for node, rule in plan.rules.items() if node not in nodes)
    return int(sum(rule.macs(needs[node], plan.numberings[node]) for node, rule in others))


def _operator(gated: GatedModel, node: fx.Node) -> str:
    if node.op == "call_module":
        owner = gated if len(node.meta["info"].streams) == 1 else gated.branches["shared"]
        return type(owner.get_submodule(str(node.target))).__name__
    return str(getattr(node.target, "__name__", node.target))
