"""Slicing: copies of the user's layers that hold slices of their tensors, bit for bit."""

import numpy as np
import pytest
import torch
from torch import nn

from gate2static.prune.emission.slicing import output_dim, picked, select, tensors_of, with_tensors


def _layer(number: float) -> nn.Linear:
    """A layer of three outputs whose weights are 10 · number + output."""
    layer = nn.Linear(2, 3)
    layer.weight.data = (10 * number + torch.arange(3.0))[:, None].expand(3, 2).clone()
    return layer


@pytest.mark.parametrize(("layer", "dim"), [(nn.Conv2d(2, 3, 1), 0), (nn.ConvTranspose2d(2, 3, 1), 1)])
def test_a_transposed_layer_counts_its_outputs_along_the_other_dimension(layer: nn.Module, dim: int) -> None:
    assert output_dim(layer) == dim
    assert tensors_of(layer)["weight"].shape[dim] == 3


def test_tensors_are_parameters_and_buffers_but_no_counters() -> None:
    assert set(tensors_of(nn.BatchNorm2d(4))) == {"weight", "bias", "running_mean", "running_var"}
    assert set(tensors_of(nn.Conv2d(2, 3, 1, bias=False))) == {"weight"}


def test_slices_of_several_layers_stand_in_the_order_that_is_asked_for() -> None:
    layers = [_layer(0), _layer(1), _layer(2)]
    owners = np.array([2, 0, 1, 2, 0])
    channels = np.array([2, 1, 0, 0, 2])
    assert picked(layers, "weight", owners, channels)[:, 0].tolist() == [22, 1, 10, 20, 2]


def test_all_positions_in_order_are_the_tensor_itself() -> None:
    tensor = torch.arange(6).reshape(2, 3)
    assert select(tensor, 1, np.arange(3)) is tensor
    assert select(tensor, 1, np.array([2, 0])).tolist() == [[2, 0], [5, 3]]


def test_a_copy_has_other_tensors_and_settings_and_leaves_the_layer_alone() -> None:
    norm = nn.BatchNorm2d(4).train()
    two = {name: tensor[:2] for name, tensor in tensors_of(norm).items()}
    sliced = with_tensors(norm, two, num_features=2)
    assert isinstance(sliced, nn.BatchNorm2d)
    assert (sliced.num_features, len(sliced.weight), sliced.training) == (2, 2, False)
    assert sliced.num_batches_tracked is None
    assert not any(parameter.requires_grad for parameter in sliced.parameters())
    assert (norm.num_features, len(norm.weight), norm.training) == (4, 4, True)
    assert norm.num_batches_tracked is not None
