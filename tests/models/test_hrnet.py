"""HRNet: the paper's costs, and exact pruning with its head."""

from types import SimpleNamespace

import pytest
import torch

from gate2static.models.backbones.hrnet import HRNet
from gate2static.models.hrnet_head import HrnetHead


def test_costs_are_those_of_the_papers_table(nets: SimpleNamespace) -> None:
    with torch.device("meta"):
        backbone, images = HRNet((3, 480, 640)), torch.zeros(1, 3, 480, 640)
        assert nets.giga_macs(backbone, images) == pytest.approx(20.1, rel=0.005)
        features = backbone(images)
        heads = [HrnetHead([f.shape for f in features], channels, (480, 640)) for channels in (40, 1, 3)]
        assert nets.giga_macs(heads[0], features) == pytest.approx(120 * 160 * 270 * (270 + 40) / 1e9)
    encoder, *decoders = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (backbone, *heads)]
    # Table 1: 28.9 M and 9.8 M parameters.
    assert 3 * encoder + sum(decoders) == pytest.approx(28.9, abs=0.05)
    assert encoder + sum(decoders) == pytest.approx(9.8, abs=0.05)


def test_images_that_do_not_divide_by_32_give_maps_that_cover_them() -> None:
    maps = HRNet((1, 40, 72), name="hrnet_w18_small").eval()(torch.randn(1, 1, 40, 72))
    assert [tuple(m.shape[2:]) for m in maps] == [(10, 18), (5, 9), (3, 5), (2, 3)]


@pytest.mark.slow
def test_it_prunes_exactly_with_its_head(nets: SimpleNamespace) -> None:
    size = (32, 36)
    nets.assert_prunes_exactly(HRNet((3, *size), name="hrnet_w18_small"), lambda s, c: HrnetHead(s, c, size), size)
