"""Networks that are compared are traced at one batch size; what is found must be what is captured in the end."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import fx, nn

from gate2static.errors import PruneError
from gate2static.prune.capture import capture, sketch
from gate2static.prune.data_movement import movement_cost
from gate2static.prune.emit import emit, plan
from gate2static.prune.fold import fold
from gate2static.prune.lowering import TARGETS, Lowering


def _operators(network: fx.GraphModule) -> Counter[str]:
    """Of tensors: sizes are constants in a sketch."""
    called = (str(node.target) for node in network.graph.nodes if isinstance(node.target, torch._ops.OpOverload))
    return Counter(target for target in called if "sym_size" not in target)


@pytest.mark.parametrize("how", TARGETS["ort-cpu"], ids=["shared", "apart", "convolved"])
@pytest.mark.parametrize("network", ["resnet12", "many_rules", "token_rules"])
def test_a_sketch_costs_what_the_captured_network_does(network: str, how: Lowering, zoo: Any) -> None:
    gated, x = zoo.make_gated(network, tasks=2, p=0.3)
    emitted = emit(gated, plan(gated, lowering=how))
    whole, sketched = capture(emitted, (x,)), sketch(emitted, (x,))
    assert _operators(whole) == _operators(sketched)
    costs = [
        movement_cost(fold(found, (x,), convolve=how.convolve_moves, first=how.channels_first), (x,))
        for found in (whole, sketched)
    ]
    assert costs[0] == costs[1]


class _Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (x + 1 if x.sum() > 0 else x - 1,)


@pytest.mark.parametrize("trace", [capture, sketch])
def test_a_network_that_branches_on_values_is_refused(trace: Any) -> None:
    with pytest.raises(PruneError, match="may not branch on tensor values"):
        trace(_Branching().eval(), (torch.ones(3, 2),))
