"""`StoredTensor`: parameters and buffers that the backbone reads by name."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.prune.rules import Dense
from gate2static.prune.rules.stored_tensor import StoredTensor
from tests.prune.rules.toys import OWN, After, Toy, make_toy, needed


class Standardised(nn.Module):
    """Subtracts a buffer and multiplies by a parameter; both have one number per channel."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(4, 1, 1))
        self.scale = nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.scale


class Functional(nn.Module):
    """Reads the weight of a layer by name."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight)


def _toy() -> Toy:
    """A parameter is a unit of its own where it acts behind the last gate: it gets a gate, here `then_mul`."""
    return make_toy(After(Standardised()), {"mul": OWN})


@pytest.fixture(scope="module")
def toy() -> Toy:
    return _toy()


def test_it_takes_tensors_that_are_read_by_name_but_no_weights_of_layers(toy: Toy) -> None:
    assert [rule.node.name for rule in toy.rules(StoredTensor)] == ["then_mean", "then_scale"]
    layer = make_toy(After(Functional()), {"then": OWN})
    assert (len(layer.rules(StoredTensor)), len(layer.rules(Dense))) == (0, 2)


def test_a_parameter_is_one_opaque_value_per_stream_and_equal_buffers_are_one_value(toy: Toy) -> None:
    mean, scale = toy.rules(StoredTensor)
    assert mean.dims is scale.dims is None
    assert toy.views(mean) == [[0], [0], [0]]
    assert toy.views(scale) == [[0], [1], [2]]  # the tasks train it apart
    assert scale.need_of_inputs(needed("1", "0", "0"), {}) == []  # nothing is read


def test_buffers_that_differ_are_one_value_per_stream() -> None:
    toy = _toy()
    toy.gated.branches["b"].get_buffer("then.mean").mul_(2)
    assert toy.views(toy.rule(StoredTensor)) == [[0], [1], [2]]
    toy.static()


def test_parameters_are_kept_apart_even_where_they_are_equal() -> None:
    toy = _toy()
    for branch in toy.gated.branches.values():
        nn.init.ones_(branch.get_parameter("then.scale"))
    assert toy.views(toy.rules(StoredTensor)[1]) == [[0], [1], [2]]


def test_what_is_needed_is_stored_as_it_was(toy: Toy) -> None:
    static = toy.static()
    branches = toy.gated.branches
    # Both tasks keep their own channels, so nobody reads the shared stream's scale.
    of_a, of_b = (scale for name, scale in static.named_parameters() if "_scale." in name)
    assert torch.equal(of_a, branches["a"].get_parameter("then.scale"))
    assert torch.equal(of_b, branches["b"].get_parameter("then.scale"))
    (mean,) = (buffer for buffer in static.buffers() if buffer.is_floating_point())
    assert torch.equal(mean, branches["shared"].get_buffer("then.mean"))
