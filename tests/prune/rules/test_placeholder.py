"""`Placeholder`: an input of the network, which all streams read."""

import pytest
import torch
from torch import Tensor, nn

from gate2static.gates import gate
from gate2static.prune.analyse import analyse
from gate2static.prune.emission.layout import LAYOUT
from gate2static.prune.emit import emit
from gate2static.prune.rules.placeholder import Placeholder
from gate2static.prune.rules.stored_tensor import StoredTensor
from tests import zoo
from tests.prune.rules.toys import TASKS, After, Toy, make_toy, needed


class TwoInputs(nn.Module):
    """Reads the second input in the second unit only."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.second = nn.Conv2d(3, 4, 1)

    def forward(self, image: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(image), self.second(other)


class Shifted(nn.Module):
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.randn(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.shift


class FirstOf(nn.Module):
    def forward(self, features: tuple[Tensor, Tensor]) -> Tensor:
        return features[0]


class Difference(nn.Module):
    def forward(self, features: tuple[Tensor, Tensor]) -> Tensor:
        return features[0] - features[1]


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy(After(Shifted()))


def test_it_takes_inputs_but_no_stored_tensors(toy: Toy) -> None:
    assert [rule.node.name for rule in toy.rules(Placeholder)] == ["x"]
    assert [rule.node.name for rule in toy.rules(StoredTensor)] == ["then_shift"]


def test_all_streams_read_one_opaque_value(toy: Toy) -> None:
    (image,) = toy.rules(Placeholder)
    assert image.dims is None
    assert toy.views(image) == [[0], [0], [0]]
    assert image.need_of_inputs(needed("1", "0", "0"), {}) == []  # nothing is read


@pytest.mark.parametrize("head", [FirstOf, Difference])
def test_inputs_keep_their_names_and_order_whether_anybody_needs_them_or_not(head: type[nn.Module]) -> None:
    inputs = (torch.randn(2, 3, 6, 6), torch.randn(2, 3, 6, 6))
    heads = {task: head() for task in TASKS}
    gated = zoo.randomise(gate(TwoInputs().eval(), tasks=TASKS, example_inputs=inputs, heads=heads))
    rules = analyse(gated).rules
    assert [rule.node.name for rule in rules.values() if isinstance(rule, Placeholder)] == ["image", "other"]
    static = emit(zoo.planned(gated), LAYOUT)
    assert [node.target for node in static.graph.find_nodes(op="placeholder")] == ["image", "other"]
    assert zoo.relative_error(gated(*inputs).values(), static(*inputs)) < 1e-5
