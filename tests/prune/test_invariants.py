"""Design invariants 1 to 3 on whole networks: equal in float64, collapsing exactly, costing what was predicted."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any

import pytest
import torch

from gate2static.gates import GatedModel, set_gates
from gate2static.prune import expected_macs
from tests import zoo

SMALL = ("two_scales", "many_rules", "token_rules")
"""Every rule; these meet every number of tasks with every pattern of gates."""
WHOLE = ("resnet6", "resnet12", "vgg", "densenet")
"""Whole networks: three tasks with every pattern, two and five with one."""
PATTERNS = ("random_0.1", "random_0.5", "one_channel", "one_task")


def cases(patterns: Sequence[Any]) -> list[Any]:
    """Network, number of tasks, pattern; those of one network follow each other, so that it is made once."""
    first = product(SMALL[:1], (2, 3, 5), patterns)
    others = [
        *product(SMALL[1:], (2, 3, 5), patterns),
        *product(WHOLE, (3,), patterns),
        *product(WHOLE, (2, 5), patterns[1:2]),
    ]
    return [*first, *(pytest.param(*case, marks=pytest.mark.slow) for case in others)]


@lru_cache(maxsize=1)
def _network(name: str, tasks: int) -> tuple[GatedModel, torch.Tensor]:
    gated, x = zoo.make_gated(name, tasks)
    return gated.double(), x.double()


@pytest.mark.parametrize(("name", "tasks", "pattern"), cases(PATTERNS))
def test_the_static_network_equals_the_gated_one_and_costs_what_was_predicted(
    name: str, tasks: int, pattern: str
) -> None:
    gated, x = _network(name, tasks)
    zoo.PATTERNS[pattern](gated)
    zoo.check_exact(gated, x)


@pytest.mark.parametrize(("name", "tasks", "specific"), cases((False, True)))
def test_constant_gates_collapse_to_exactly_one_network_or_one_a_task(
    name: str, tasks: int, specific: bool
) -> None:
    gated, x = _network(name, tasks)
    set_gates(gated, specific)
    # The network as it came, never lifted, with each branch's weights.
    bare = zoo.make_backbone(name)[0].double()
    expected, macs, parameters = [], 0, 0
    for task in gated.tasks:
        bare.load_state_dict(gated.branches[task if specific else "shared"].state_dict())
        with torch.no_grad():
            features = bare(x)
            expected.append(gated.heads[task](features))
        macs += zoo.counted_macs(gated.heads[task], (features,))
        parameters += sum(p.numel() for p in gated.heads[task].parameters())
    copies = tasks if specific else 1
    macs += copies * zoo.counted_macs(bare, (x,))
    parameters += copies * sum(p.numel() for p in bare.parameters())
    static = zoo.check_exact(gated, x)
    assert zoo.relative_error(expected, zoo.outputs(static, x)) <= 1e-9
    assert sum(p.numel() for p in static.parameters()) == parameters
    assert int(expected_macs(gated)) == macs
