"""`Identity`: layers that do nothing in eval mode."""

import pytest
from timm.layers.drop import DropPath as StochasticDepth
from torch import Tensor, nn

from gate2static.prune.rules import Barrier
from gate2static.prune.rules.identity import Identity
from gate2static.prune.rules.unary_map import UnaryMap
from tests.prune.rules.toys import VIEWS, After, Toy, calls, kinds_of, make_toy


class DropPath(nn.Module):
    """Has the name of stochastic depth, and halves its input in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else x / 2


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy(After(nn.Dropout2d(0.5)))


def test_it_takes_identities_dropout_and_stochastic_depth_but_no_class_that_is_only_called_so() -> None:
    taken = (nn.Identity(), nn.Dropout(0.5), StochasticDepth(0.1))
    assert kinds_of(*taken, DropPath(), nn.ReLU()) == [Identity, Identity, Identity, Barrier, UnaryMap]


def test_channels_keep_their_numbers_and_their_need(toy: Toy) -> None:
    dropout = toy.rule(Identity)
    assert toy.views(dropout) == VIEWS
    assert toy.need_of_inputs(dropout, "1000", "0100", "0011") == [["1000", "0100", "0011"]]
    assert toy.origins(dropout) == [(0, list(range(16)))]


def test_an_opaque_value_stays_opaque() -> None:
    toy = make_toy(After(lambda x: x.cumsum(1), nn.Identity()))  # nothing knows the channels of cumsum's result
    assert toy.rule(Identity).dims is None
    assert toy.views(toy.rule(Identity)) == [[0], [1], [2]]


def test_nothing_is_emitted_but_dropout_which_training_needs(toy: Toy) -> None:
    reads = ["narrow", "index_select"]  # what each head reads of `first`
    assert calls(make_toy(After(nn.Identity())).static()) == ["Conv2d", *reads]
    assert calls(make_toy(After(nn.Dropout2d(0.0))).static()) == ["Conv2d", *reads]
    assert calls(toy.static()) == ["Conv2d", "feature_dropout", *reads]
