"""Trained weights that take the data sets' normalisation, and networks that cannot."""

import copy

import pytest
import torch
from timm.layers import StdConv2d
from torch import Tensor, nn

from gate2static.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from gate2static.errors import RecipeError
from gate2static.models.weights import take_normalised

MEAN, STD = (0.5, 0.4, 0.3), (0.5, 0.6, 0.7)


def normalised(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@pytest.mark.parametrize(
    "model",
    [
        nn.Conv2d(3, 5, 4, 4),
        nn.Sequential(nn.Conv2d(3, 5, 3, 2, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 2, 1)),
    ],
    ids=["bias", "norm"],
)
@pytest.mark.parametrize("training", [False, True])
def test_outputs_stay_what_they_were(model: nn.Module, training: bool) -> None:
    model = copy.deepcopy(model).train(training)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = copy.deepcopy(model)(normalised(images, MEAN, STD))
        take_normalised(model, MEAN, STD, "net")
        assert torch.allclose(model(normalised(images, IMAGENET_MEAN, IMAGENET_STD)), expected, atol=1e-4)


def test_weights_of_imagenets_normalisation_stay_as_they_are() -> None:
    model = nn.Linear(2, 2)
    take_normalised(model, IMAGENET_MEAN, IMAGENET_STD, "net")


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(3, 2),
        nn.Conv2d(1, 2, 3),
        nn.Conv2d(3, 2, 3, bias=False),
        nn.Sequential(nn.Conv2d(3, 2, 3, bias=False), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)),
        StdConv2d(3, 2, 3, bias=True),
    ],
)
def test_a_network_that_cannot_absorb_it_says_what_to_do(model: nn.Module) -> None:
    with pytest.raises(
        RecipeError,
        match=r"net: its weights want .* mean \[0\.5, 0\.4, 0\.3\].*set model\.options\.mean and std",
    ):
        take_normalised(model, MEAN, STD, "net")
