"""`Attention`: scaled_dot_product_attention, two products of the same heads."""

from typing import Any

import pytest
from torch import Tensor
from torch.nn import functional as F

from gate2static.prune.rules import Barrier
from gate2static.prune.rules.attention import Attention
from gate2static.prune.rules.matrix_product import MatrixProduct
from tests.prune.rules.toys import After, Toy, calls, kinds_of, make_toy


def _heads(x: Tensor) -> Tensor:
    """Tokens (N, 5, 4) as two heads of two channels: (N, heads, 5, 2)."""
    heads: Tensor = x.unflatten(2, (2, 2)).transpose(1, 2)
    return heads


def _attention(x: Tensor, **options: Any) -> Tensor:
    q = _heads(x)
    return F.scaled_dot_product_attention(q, q, q, **options)


def _by_hand(x: Tensor) -> Tensor:
    q = _heads(x)
    return (q @ q.transpose(2, 3) / 2**0.5).softmax(-1) @ q


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy(After(_attention, tokens=True))


def test_it_takes_the_operator_but_not_with_shared_keys_nor_the_products_by_hand() -> None:
    grouped = lambda x: _attention(x, enable_gqa=True)  # noqa: E731
    assert kinds_of(_attention, grouped, _by_hand, tokens=True) == [Attention, Barrier, MatrixProduct]


def test_a_channel_is_a_column_of_the_values_in_one_head(toy: Toy) -> None:
    attention = toy.rule(Attention)
    assert (attention.dims, attention.free) == ((1, 3), 2)
    assert toy.views(attention) == [[0, 1, 6, 7], [2, 3, 4, 5], [8, 9, 11, 10]]
    sources = toy.numbering(attention).sources
    assert sources is not None
    # Task a's: (head of the queries, head of the keys, channel of the values). Heads are pairs of channels, numbered as
    # they sort: 0 is (0 1), 3 is (10 11).
    assert sources[[0, 1, 6, 7]].tolist() == [[0, 0, 0], [0, 0, 1], [3, 3, 10], [3, 3, 11]]


def test_a_column_needs_its_heads_queries_and_keys_and_its_own_values(toy: Toy) -> None:
    heads = ["10", "00", "00"]
    assert toy.need_of_inputs(toy.rule(Attention), "0100", "0000", "0000") == [heads, heads, ["0100", "0000", "0000"]]


def test_macs_are_those_of_the_heads_and_of_their_columns(toy: Toy) -> None:
    attention = toy.rule(Attention)
    head = 5 * 5 * 2  # 5 · 5 scores, each of 2 products
    column = 5 * 5  # 5 sums of 5 products
    assert toy.macs(attention, "1000", "0000", "0000") == head + column
    assert toy.macs(attention, "1100", "0000", "0000") == head + 2 * column
    assert toy.macs(attention, "1010", "0000", "0000") == 2 * (head + column)


def test_the_heads_of_all_streams_run_as_one_call(toy: Toy) -> None:
    static = toy.static()
    assert calls(static).count("scaled_dot_product_attention") == 1


def test_masks_and_settings_stay() -> None:
    toy = make_toy(After(lambda x: _attention(x, is_causal=True, scale=0.3), tokens=True))
    (call,) = (node for node in toy.static().graph.nodes if node.target is F.scaled_dot_product_attention)
    assert call.kwargs == {"is_causal": True, "scale": 0.3}
    masked = make_toy(After(lambda x: _attention(x, attn_mask=_heads(x) @ _heads(x).transpose(2, 3)), tokens=True))
    heads = ["10", "00", "00"]
    assert masked.need_of_inputs(masked.rule(Attention), "0100", "0000", "0000")[3] == heads  # a mask for each head
    masked.static()
