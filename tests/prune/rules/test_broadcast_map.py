"""`BroadcastMap`: operators on tensors that line up channel by channel."""

import pytest
import torch
from torch import Tensor, nn

from gate2static.prune.emission.layout import PLAIN
from gate2static.prune.rules import Barrier
from gate2static.prune.rules.broadcast_map import BroadcastMap
from gate2static.prune.rules.concat import Concat
from tests.prune.rules.toys import OWN, After, Layer, Toy, calls, kinds_of, make_toy


class Positions(nn.Module):
    """Adds a map that every stream learns for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x.relu() + self.position


def _residual(x: Tensor) -> Tensor:
    return x + x.relu()


def _with_flipped(x: Tensor) -> Tensor:
    return x + x.flip(1)


def _weighted(x: Tensor) -> Tensor:
    """Every channel times its mean."""
    return x * x.mean((2, 3), keepdim=True)


def _centred(x: Tensor) -> Tensor:
    """Minus one map that is made of all channels."""
    return x - x.mean(1, keepdim=True)


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy(After(_residual))


@pytest.fixture(scope="module")
def centred() -> Toy:
    return make_toy(After(_centred))


def test_it_takes_sums_products_choices_and_joins_along_other_dimensions_than_the_channels() -> None:
    rows = lambda x: torch.cat([x, x], 2)  # noqa: E731
    taken: list[Layer] = [_residual, _weighted, _centred, lambda x: x.where(x > 0, -x), rows]
    joined_channels = lambda x: torch.cat([x, x], 1)  # noqa: E731
    unknown = lambda x: torch.fmax(x, x)  # noqa: E731
    assert kinds_of(*taken, joined_channels, unknown) == [*[BroadcastMap] * 5, Concat, Barrier]


def test_a_result_is_a_channel_for_every_distinct_row_of_operands(toy: Toy) -> None:
    assert toy.views(toy.rule(BroadcastMap)) == [
        [0, 1, 5, 6],
        [2, 4, 3, 6],
        [7, 8, 9, 6],  # channel 3 is one and the same for all streams: it is added once
    ]
    sources = toy.numbering(toy.rule(BroadcastMap)).sources  # (pool channels, operands)
    assert sources is not None
    assert sources.tolist() == [[c, c] for c in (0, 1, 4, 6, 9, 10, 11, 12, 13, 14)]


def test_operands_may_have_any_channels_beside_each_other() -> None:
    toy = make_toy(After(_with_flipped))
    sources = toy.numbering(toy.rule(BroadcastMap)).sources
    assert sources is not None
    of_a = sources[toy.views(toy.rule(BroadcastMap))[0]]
    assert of_a.tolist() == [[0, 11], [1, 10], [10, 1], [11, 0]]
    toy.static()


def test_a_result_needs_the_same_channel_of_every_operand(toy: Toy) -> None:
    need = toy.need_of_inputs(toy.rule(BroadcastMap), "1000", "0110", "0000")
    assert need == [["1000", "0110", "0000"]] * 2
    first = [0, 1, 4, 6, 9, 10, 11, 12, 13, 14]
    assert toy.origins(toy.rule(BroadcastMap)) == [(0, first), (1, first)]


def test_what_is_broadcast_along_the_channels_is_needed_by_each_of_them(centred: Toy) -> None:
    need = centred.need_of_inputs(centred.rule(BroadcastMap), "1000", "0000", "0011")
    assert need == [["1000", "0000", "0011"], ["1", "0", "1"]]


def test_it_runs_once_on_the_live_channels_of_all_streams(toy: Toy, centred: Toy) -> None:
    assert toy.live(toy.rule(BroadcastMap)) == list(range(7))
    assert calls(toy.static()).count("add") == 1
    assert calls(toy.static(PLAIN)).count("add") == 2  # for a's stream and for b's
    assert calls(centred.static()).count("sub") == 1  # each channel minus the mean of its stream


@pytest.mark.parametrize("then", [_weighted, lambda x: torch.cat([x, x.relu()], 2), lambda x: x + x.shape[0]])
def test_other_operands_are_aligned(then: Layer) -> None:
    make_toy(After(then)).static()


def test_what_is_broadcast_and_differs_between_streams_is_repeated_for_each_channel() -> None:
    toy = make_toy(After(Positions()), {"add": OWN})
    # Channel 3 of a and b is the same, 11, but each adds its own map to it.
    a, b, _ = toy.views(toy.rule(BroadcastMap))
    assert set(a) & set(b) == set()
    toy.static()
