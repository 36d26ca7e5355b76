"""Gates in groups, hard mixing and ties along the residual streams: what holds for plain gates holds for them."""

from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from gate2static.gates import GatedModel
from gate2static.prune import expected_macs, plan
from gate2static.prune.emit import emit

NETWORKS = ("resnet20", "densenet", "two_scales", "many_rules", "token_rules")
PATTERNS = ("random_0.1", "random_0.5", "all_shared", "all_specific", "one_channel", "one_task")
OPTIONS: dict[str, dict[str, Any]] = {
    "hard": {"mixing": "hard"},
    "hard_groups": {"mixing": "hard", "group_size": 5},
    "tied_groups": {"tie_residual": True, "group_size": 3},
    "tied_hard": {"tie_residual": True, "mixing": "hard"},
    "tied_hard_groups": {"tie_residual": True, "mixing": "hard", "group_size": 4},
}


@lru_cache(maxsize=1)
def _network(make_gated: Any, name: str, options: str) -> tuple[GatedModel, torch.Tensor]:
    gated, x = make_gated(name, 3, **OPTIONS[options])
    return gated.double(), x.double()


@torch.no_grad()
def _outputs(network: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    return pytree.tree_leaves(network(x))


def _cases() -> list[Any]:
    return [
        pytest.param(name, options, marks=pytest.mark.xdist_group(f"structured-{name}"))
        for name in NETWORKS
        for options in OPTIONS
    ]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("name", "options"), _cases())
def test_the_static_network_equals_the_gated_one_and_costs_what_was_predicted(
    name: str, options: str, pattern: str, zoo: Any
) -> None:
    gated, x = _network(zoo.make_gated, name, options)
    zoo.patterns[pattern](gated)
    decided = plan(gated)
    static = emit(gated, decided)
    assert zoo.relative_error(_outputs(gated, x), _outputs(static, x)) <= 1e-9
    assert int(expected_macs(gated)) == decided.macs() == zoo.counted_macs(static, (x,))
