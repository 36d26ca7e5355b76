"""The dilated ResNet: the paper's costs, timm's weights, and exact pruning."""

from types import SimpleNamespace
from typing import Literal

import pytest
import timm
import torch

from gate2static.errors import RecipeError
from gate2static.models.aspp_head import AsppHead
from gate2static.models.backbones.dilated_resnet import DilatedResNet, DilatedResNetOptions
from gate2static.recipe import parse


@pytest.mark.parametrize(
    ("depth", "size", "encoder", "head"), [(18, (512, 512), 48.2, 18.8), (50, (480, 640), 116.8, 74.9)]
)
def test_costs_are_those_of_the_papers_tables(
    depth: Literal[18, 50], size: tuple[int, int], encoder: float, head: float, nets: SimpleNamespace
) -> None:
    # Recomputed by hand from tables 2 and 5 (docs/paper.md, note 5).
    with torch.device("meta"):
        backbone, images = DilatedResNet(depth), torch.zeros(1, 3, *size)
        assert nets.giga_macs(backbone, images) == pytest.approx(encoder, rel=0.005)
        features = backbone(images)
        decoder = AsppHead([f.shape for f in features], 13, size)
        assert nets.giga_macs(decoder, features) == pytest.approx(head, rel=0.005)


def test_the_pyramid_has_deeplabs_rates() -> None:
    head = AsppHead([torch.Size((2, 8, 5, 6))], 3, (36, 44))
    assert {m.dilation[0] for m in head.modules() if isinstance(m, torch.nn.Conv2d)} == {1, 12, 24, 36}


def test_the_last_stages_dilate_instead_of_striding() -> None:
    backbone = DilatedResNet(18, 3, 0.125)
    maps = backbone(torch.randn(2, 3, 36, 44))
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 18, 22), (8, 9, 11), (64, 5, 6)]
    dilations = [[block.conv2.dilation[0] for block in stage] for stage in (backbone.layer3, backbone.layer4)]
    assert dilations == [[2, 2], [4, 4]]


@pytest.mark.parametrize("depth", [18, 50])
def test_it_is_timms_network_with_its_weights_names(depth: Literal[18, 50]) -> None:
    ours = DilatedResNet(depth).eval()
    timms = timm.create_model(f"resnet{depth}", output_stride=8, num_classes=0).eval()
    timms.load_state_dict(ours.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(ours(images)[-1], timms.forward_features(images), atol=1e-5)


@pytest.mark.parametrize("width", [1.0, 0.5, 0.25])
def test_width_narrows_the_stem_too(width: float) -> None:
    with torch.device("meta"):
        maps = DilatedResNet(50, 3, width)(torch.zeros(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == [64 * width, 256 * width, 2048 * width]


def test_trained_weights_of_a_narrow_network_do_not_exist() -> None:
    with pytest.raises(RecipeError, match="model.options: trained weights are of width 1 only; leave out"):
        parse(DilatedResNetOptions, {"width": 0.5, "pretrained": True}, where="model.options")


@pytest.mark.slow
def test_it_prunes_exactly_with_its_decoder(nets: SimpleNamespace) -> None:
    size = (32, 36)
    nets.assert_prunes_exactly(DilatedResNet(18, 3, 0.0625), lambda s, c: AsppHead(s, c, size), size)
