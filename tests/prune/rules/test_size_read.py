"""`SizeRead`: sizes, dtypes and devices; constants, but for what follows the batch."""

import pytest
import torch
from torch import Tensor

from gate2static.prune.rules import Barrier
from gate2static.prune.rules.size_read import SizeRead
from tests import zoo
from tests.prune.rules.toys import After, Toy, calls, make_toy, needed


def _flattened(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1)


def _by_batch(x: Tensor) -> Tensor:
    """Divides by the batch size, as it is read from the halves of all images, which are a batch twice as long."""
    halves: Tensor = x.unflatten(2, (2, 3)).transpose(1, 2).flatten(0, 1)  # (N, 4, 6, 6) -> (2 · N, 4, 3, 6)
    return x / (halves.size(0) // 2)


def _plus_ones(x: Tensor) -> Tensor:
    return x + torch.ones(6, dtype=x.dtype, device=x.device)


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy(After(_flattened))


def test_it_takes_reads_of_sizes_and_types_but_no_arithmetic_with_them(toy: Toy) -> None:
    assert [rule.node.name for rule in toy.rules(SizeRead)] == ["getattr_1", "getitem"]  # x.shape, and its first entry
    by_batch = make_toy(After(_by_batch))
    assert [rule.node.name for rule in by_batch.rules(SizeRead)] == ["size"]
    assert [rule.node.name for rule in by_batch.rules(Barrier)] == ["floordiv"]


def test_all_streams_read_one_opaque_value(toy: Toy) -> None:
    shape, batch = toy.rules(SizeRead)
    assert shape.dims is batch.dims is None
    assert toy.views(shape) == toy.views(batch) == [[0], [0], [0]]


def test_an_entry_needs_its_shape_and_a_shape_needs_no_tensor(toy: Toy) -> None:
    shape, batch = toy.rules(SizeRead)
    assert toy.need_of_inputs(batch, "1", "0", "0") == [["1", "0", "0"]]
    assert shape.need_of_inputs(needed("1", "0", "0"), {}) == []  # the network's input says it, too


def test_a_size_that_follows_the_batch_is_read_from_the_networks_input() -> None:
    toy = make_toy(After(_by_batch))
    static = toy.static()
    # The halves are twice as many as the images, which nobody needs to cut for that any more.
    assert calls(static) == ["Conv2d", "size", "mul", "floordiv", "truediv", "narrow", "index_select"]
    x = torch.randn(5, 3, 6, 6, dtype=torch.float64)
    assert zoo.relative_error(zoo.outputs(toy.gated, x), zoo.outputs(static, x)) <= 1e-9


def test_constants_are_written_out_and_types_are_read_from_the_input() -> None:
    toy = make_toy(After(_plus_ones))
    static = toy.static()
    (ones,) = (node for node in static.graph.nodes if node.target is torch.ones)
    assert ones.args == (6,)
    assert {name: node.args[1] for name, node in ones.kwargs.items()} == {"dtype": "dtype", "device": "device"}
