"""Annotations of a captured network: found once, carried along, and thrown away where they are not so any more."""

import pytest
import torch
from torch import Tensor, nn

from gate2static.static.aten import annotate, dtype_of, shape_of
from gate2static.static.capturing.capture import capture, exported
from gate2static.static.capturing.meta_tensors import META, run_without_content

_aten = torch.ops.aten


class _Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> tuple[Tensor]:
        return (self.linear(self.embedding(tokens)).mean(1),)


@pytest.mark.parametrize("way", [capture, exported])
def test_values_follow_the_networks_dtype_after_it_was_converted(way: object) -> None:
    tokens = torch.zeros(3, 5, dtype=torch.int64)
    network = capture(_Tokens().eval(), (tokens,)) if way is capture else exported(_Tokens().eval(), (tokens,))
    for dtype in (torch.float32, torch.float64):
        annotate(network.to(dtype), (tokens,))
        calls = [node for node in network.graph.nodes if node.op == "call_function"]
        assert {dtype_of(node) for node in calls} == {dtype}
        assert all(isinstance(size, int) for node in calls for size in shape_of(node) or ())


def test_a_number_without_dimensions_decides_no_dtype_and_one_with_dimensions_does() -> None:
    x = torch.empty(4, 3, device=META)
    scalar, row = torch.empty((), dtype=torch.float64, device=META), torch.empty(3, dtype=torch.float64, device=META)
    assert run_without_content(_aten.mul.Tensor, (x, scalar), {}).dtype is torch.float32
    assert run_without_content(_aten.mul.Tensor, (x, row), {}).dtype is torch.float64
    assert run_without_content(_aten.mul.Tensor, (x, scalar), {}).dtype is torch.float32


def test_a_layer_norm_of_a_permuted_value_lies_in_one_piece() -> None:
    x = torch.empty(2, 4, 3, device=META).permute(0, 2, 1)
    norm = run_without_content(_aten.layer_norm.default, (x, [4]), {})
    real = torch.layer_norm(torch.empty(2, 4, 3).permute(0, 2, 1), [4])
    assert norm.stride() == real.stride()
