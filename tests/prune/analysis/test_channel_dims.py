"""Channel dimensions: canonical tensors as the user's code has them, physical ones with their channels along one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from gate2static.prune.analysis.channel_dims import Dims, axis, count, others, permuted, to_canonical, to_physical


def _run(emit: Callable[[fx.Graph, fx.Node], fx.Node], x: Tensor) -> Tensor:
    graph = fx.Graph()
    graph.output(emit(graph, graph.placeholder("x")))
    result: Tensor = fx.GraphModule(nn.Module(), graph)(x)
    return result


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        ((1,), 1),  # (N, C, H, W)
        ((3,), 3),  # (N, H, W, C)
        ((1, 2), 1),  # (N, groups, C / groups, L) -> (N, C, L)
        ((1, 3), 2),  # (N, heads, L, C / heads) -> (N, L, C)
    ],
)
def test_the_axis_is_behind_the_other_dimensions_that_precede_the_last(dims: Dims, expected: int) -> None:
    assert axis(dims) == expected


def test_channels_count_through_their_dimensions() -> None:
    assert others(4, (1, 3)) == [0, 2]
    assert count((2, 3, 5, 4), (1, 3)) == 12


def test_heads_lie_side_by_side_in_a_physical_tensor() -> None:
    heads = torch.randn(2, 3, 5, 4)  # (N, heads, L, C / heads)
    physical = _run(lambda graph, x: to_physical(graph, x, 4, (1, 3)), heads)
    assert torch.equal(physical, heads.transpose(1, 2).flatten(2))  # (N, L, C)


@pytest.mark.parametrize("dims", [(1,), (2,), (1, 2), (1, 3), (2, 3), (1, 4), (2, 4), (1, 2, 4)])
def test_canonical_is_the_way_back_from_physical(dims: Dims) -> None:
    x = torch.randn(2, 3, 5, 4, 2)

    def there_and_back(graph: fx.Graph, node: fx.Node) -> fx.Node:
        return to_canonical(graph, to_physical(graph, node, 5, dims), x.shape, dims)

    assert torch.equal(_run(there_and_back, x), x)


def test_nothing_is_emitted_where_nothing_moves() -> None:
    graph = fx.Graph()
    node = graph.placeholder("x")
    assert to_physical(graph, node, 4, (1,)) is to_canonical(graph, node, (2, 3, 5, 4), (1,)) is node
    assert permuted(graph, node, [0, 1, 2]) is node
