"""Backbones of timm and torchvision: their maps, and networks that are refused."""

import pytest
import timm
import torch
import torchvision
from torch import fx

from gate2static.errors import RecipeError
from gate2static.models.backbones.timm_backbone import timm_backbone
from gate2static.models.backbones.torchvision_backbone import torchvision_backbone
from gate2static.models.build import find_backbone
from gate2static.models.weights import UNTRAINED


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", [64, 64, 128, 256, 512]),
        ("vgg11_bn", [64, 128, 256, 512, 512, 512]),
        ("squeezenet1_0", [96, 256, 512, 1000]),
    ],
)
def test_torchvision_gives_the_last_map_of_every_resolution(name: str, channels: list[int]) -> None:
    torch.manual_seed(0)
    maps = torchvision_backbone(name, (3, 64, 64), start=UNTRAINED)(torch.randn(2, 3, 64, 64))
    assert [m.shape[1] for m in maps] == channels
    sizes = [m.shape[2] for m in maps]
    assert sizes == sorted(set(sizes), reverse=True)


def test_torchvisions_maps_are_the_networks_own() -> None:
    torch.manual_seed(0)
    backbone = torchvision_backbone("resnet18", (3, 64, 64), start=UNTRAINED)
    whole = torchvision.models.resnet18()
    state = {key: value for key, value in whole.state_dict().items() if not key.startswith("fc.")}
    backbone.load_state_dict(state)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        coarse = backbone.eval()(x)[-1]
        assert torch.allclose(whole.fc(coarse.mean((2, 3))), whole.eval()(x), rtol=1e-4, atol=1e-5)


def test_timm_adapts_to_the_images_channels_and_can_be_traced() -> None:
    backbone = timm_backbone("resnet18", (1, 64, 64), start=UNTRAINED)
    assert backbone.training
    fx.symbolic_trace(backbone)
    maps = backbone(torch.zeros(2, 1, 64, 64))
    assert [m.shape[1] for m in maps] == [64, 64, 128, 256, 512]


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("swin_tiny_patch4_window7_224", 224, r"has its channels last, heads here want \(N, C, H, W\)"),
        ("swin_tiny_patch4_window7_224", 32, "gives no feature maps for images of"),
    ],
)
def test_a_timm_network_without_feature_maps_is_refused(name: str, size: int, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        timm_backbone(name, (3, size, size), start=UNTRAINED)


def test_images_too_small_for_a_network_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"torchvision/alexnet cannot take images of \(3, 8, 8\): .*larger images"):
        torchvision_backbone("alexnet", (3, 8, 8), start=UNTRAINED)


@pytest.mark.parametrize(
    "name", ["vit_small", "hrnet_w18", "resnet18_dilated", "timm/resnet18", "torchvision/resnet18"]
)
def test_weights_that_cannot_be_fetched_are_one_clear_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(timm, "create_model", refuse)
    monkeypatch.setattr(torchvision.models, "get_model", refuse)
    entry = find_backbone(name)
    options = entry.options.model_validate({"pretrained": True})
    with pytest.raises(RecipeError, match=r"^model\.options\.pretrained: the weights of .*: no route to host; connect"):
        entry.build((3, 64, 64), options)
