"""The two analyses of a program: numbering forwards, demand backwards."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, fx

from gate2static.gates.model import GatedModel
from gate2static.prune.analysis.numbering import Decisions, Numbering, either
from gate2static.prune.rules import RULES, Rule

Rules = dict[fx.Node, Rule]


def match_rules(gated: GatedModel) -> Rules:
    """The rule of every node but the output, in program order."""
    rules: Rules = {}
    for node in gated.program.graph.nodes:
        if node.op != "output":
            rules[node] = next(r for kind in RULES if (r := kind.match(node, rules, gated)) is not None)
    return rules


def number(gated: GatedModel, rules: Mapping[fx.Node, Rule], decisions: Decisions) -> dict[fx.Node, Numbering]:
    """The pool and views of every node where the gates decide so (value numbering)."""
    numberings: dict[fx.Node, Numbering] = {}
    for node, rule in rules.items():
        numberings[node] = rule.number([r.numbering(numberings[r.node]) for r in rule.inputs], decisions, gated)
    return numberings


def demand(
    gated: GatedModel, rules: Mapping[fx.Node, Rule], gates: Mapping[str, Tensor], blind: Collection[fx.Node] = ()
) -> dict[fx.Node, Tensor]:
    """How far every channel of every stream is needed by the outputs (liveness).

    Args:
        gated: the model.
        rules: of its program.
        gates: unit -> (T, C), in [0, 1]; 0 and 1 give exact liveness.
        blind: nodes that read nothing, to see what they cost.

    Returns:
        Node -> (S, C).
    """
    sample = next(iter(gates.values()))
    needs = {node: sample.new_zeros((r.streams, r.channels)) for node, r in rules.items()}
    for result in outputs(gated).values():
        needs[result] = torch.ones_like(needs[result])
    for node, rule in reversed(list(rules.items())):
        if node in blind:
            continue
        for reading, wanted in zip(rule.inputs, rule.demand(needs[node], gates), strict=True):
            needs[reading.node] = either(needs[reading.node], reading.demand(wanted))
    return needs


def outputs(gated: GatedModel) -> dict[str, fx.Node]:
    """Task -> the node that its head returns."""
    found: dict[str, fx.Node] = next(iter(gated.program.graph.find_nodes(op="output"))).args[0]
    return found
