"""The operators of a network as they are recorded: shapes, arguments, MACs."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gate2static.errors import BenchError
from gate2static.latency.operators import record
from gate2static.static import StaticModel


class Attends(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


def test_operators_come_with_shapes_arguments_and_macs() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
    convolution, relu = record(network, (torch.randn(2, 3, 8, 8),))
    assert (convolution.name, relu.name) == ("convolution", "relu")
    assert convolution.outputs[0].shape == (2, 8, 4, 4)
    assert convolution.arguments["stride"] == [2, 2]
    assert convolution.macs == 2 * 8 * 4 * 4 * 3 * 9
    assert convolution.inputs[1].is_constant
    assert relu.inputs[0].index == convolution.outputs[0].index


def test_what_follows_from_weights_alone_is_no_operator() -> None:
    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale.exp().softmax(0)

    assert [operator.name for operator in record(Scales(), (torch.ones(2, 4),))] == ["mul"]


def test_reshaping_is_no_operator_and_keeps_the_value() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Flatten(), nn.ReLU())
    product, relu = record(network, (torch.ones(2, 3, 4),))
    assert product.outputs[0].index == relu.inputs[0].index


def test_attention_is_products_and_a_softmax() -> None:
    names = [operator.name for operator in record(Attends(), (torch.ones(1, 2, 5, 4),))]
    assert names.count("bmm") == 2
    assert any("softmax" in name for name in names)


def test_a_network_too_large_to_run_is_recorded_without_arithmetic() -> None:
    with FakeTensorMode():
        huge = nn.Sequential(*(nn.Linear(2**18, 2**18) for _ in range(3)))
        inputs = (torch.empty(2**16, 2**18),)
    assert [operator.macs for operator in record(huge, inputs)] == [2**52] * 3


def test_a_captured_and_folded_network_is_recorded(static: StaticModel) -> None:
    names = [operator.name for operator in record(static.deployed(), static.example_inputs(3))]
    assert "convolution" in names
    assert "native_batch_norm" not in names


def test_recording_leaves_the_network_alone(static: StaticModel) -> None:
    before = {name: value.clone() for name, value in static.state_dict().items()}
    record(static, static.example_inputs(1))
    assert all(torch.equal(value, before[name]) for name, value in static.state_dict().items())


def test_inputs_that_do_not_fit_are_one_clear_line() -> None:
    with pytest.raises(BenchError, match=r"does not run on inputs of shape \(1, 5\): .*; pass inputs") as caught:
        record(nn.Linear(4, 4), (torch.ones(1, 5),))
    assert "\n" not in str(caught.value)
