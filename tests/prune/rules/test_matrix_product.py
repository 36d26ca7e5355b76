"""`MatrixProduct`: products of activations, pair of matrices by pair."""

import pytest
from torch import Tensor

from gate2static.prune.rules import Barrier
from gate2static.prune.rules.matrix_product import MatrixProduct
from tests.prune.rules.toys import After, Toy, calls, kinds_of, make_toy


def _heads(x: Tensor) -> Tensor:
    """Tokens (N, 5, 4) as two heads of two channels: (N, heads, 5, 2)."""
    heads: Tensor = x.unflatten(2, (2, 2)).transpose(1, 2)
    return heads


def _scores(x: Tensor) -> Tensor:
    """(N, heads, 5, 5): every head with itself."""
    return _heads(x) @ _heads(x).transpose(2, 3)


def _attended(x: Tensor) -> Tensor:
    """The scores with the heads again: (N, heads, 5, 2)."""
    return _scores(x) @ _heads(x)


def _attending(x: Tensor) -> Tensor:
    """The transpose of that with transposed scores: (N, heads, 2, 5)."""
    return _heads(x).transpose(2, 3) @ _scores(x)


def _first_three(x: Tensor) -> Tensor:
    """Of (N, heads, 5, 2) the first head, and the first channel of the second."""
    return x.transpose(1, 2).flatten(2)[:, :, :3]


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy(After(_attended, tokens=True))


def _products(toy: Toy) -> list[MatrixProduct]:
    return toy.rules(MatrixProduct)


def _gram(x: Tensor) -> Tensor:
    """(N, 5, 4) with (N, 4, 5): sums over all channels."""
    return x @ x.transpose(1, 2)


def test_it_takes_products_that_keep_channels_but_none_that_sums_over_all_of_them() -> None:
    assert kinds_of(_scores, _attended, _gram, tokens=True) == [MatrixProduct, MatrixProduct, Barrier]


def test_a_pair_of_matrices_is_a_channel(toy: Toy) -> None:
    scores, _ = _products(toy)
    assert (scores.dims, scores.free) == ((1,), None)
    # Heads are pairs of channels, numbered as they sort: 0 (0 1), 1 (4 9), 2 (6 11), 3 (10 11), 4 (12 13), 5 (14 11).
    assert toy.views(scores) == [[0, 3], [1, 2], [4, 5]]


def test_a_column_is_a_channel_where_the_operand_has_channels_there(toy: Toy) -> None:
    _, attended = _products(toy)
    assert (attended.dims, attended.free) == ((1, 3), 1)
    assert toy.views(attended) == [[0, 1, 6, 7], [2, 3, 4, 5], [8, 9, 11, 10]]
    sources = toy.numbering(attended).sources
    assert sources is not None
    assert sources[[0, 1, 6, 7]].tolist() == [[0, 0], [0, 1], [3, 10], [3, 11]]  # a's: (pair, channel of the head)


def test_rows_of_the_first_operand_may_carry_the_channels_too() -> None:
    toy = make_toy(After(_attending, tokens=True))
    _, attending = _products(toy)
    assert (attending.dims, attending.free) == ((1, 2), 0)
    toy.static()


def test_a_pair_needs_both_its_matrices_and_a_column_its_own_channel(toy: Toy) -> None:
    scores, attended = _products(toy)
    assert toy.need_of_inputs(scores, "10", "00", "01") == [["10", "00", "01"]] * 2
    assert toy.need_of_inputs(attended, "0100", "0000", "0000") == [["10", "00", "00"], ["0100", "0000", "0000"]]


def test_macs_are_those_of_distinct_pairs_and_of_their_columns(toy: Toy) -> None:
    scores, attended = _products(toy)
    assert toy.macs(scores, "10", "01", "00") == 2 * (5 * 5 * 2)  # two pairs: 5 · 5 sums of 2 products
    assert toy.macs(attended, "1100", "0100", "0000") == 3 * (5 * 5)  # three columns: 5 sums of 5 products


def test_streams_with_the_same_heads_multiply_them_once() -> None:
    toy = make_toy(After(_scores, tokens=True), {"first": ("0011", "0011")})
    scores = toy.rule(MatrixProduct)
    assert toy.views(scores)[0] == toy.views(scores)[1][:1] + toy.views(scores)[0][1:]  # the first heads are one
    assert toy.macs(scores, "10", "10", "00") == 5 * 5 * 2


def test_pairs_with_equally_many_columns_run_together(toy: Toy) -> None:
    assert calls(toy.static()).count("matmul") == 2  # the scores, and all heads of a and b with two columns each
    cut = make_toy(After(_attended, _first_three, tokens=True))
    assert calls(cut.static()).count("matmul") == 3  # first heads with two columns, second ones with one
