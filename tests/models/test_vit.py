"""The vision transformer: the paper's costs, padding, and exact pruning with its decoder."""

from types import SimpleNamespace

import pytest
import torch

from gate2static.models.backbones.vit import ViT
from gate2static.models.dpt_head import DptHead

TINY = (0, 2, 3, 5)


@pytest.mark.parametrize(("name", "encoder", "head"), [("small", 39.15, 8.88), ("base", 129.3, 12.33)])
def test_costs_are_those_behind_the_papers_tables(
    name: str, encoder: float, head: float, nets: SimpleNamespace
) -> None:
    # docs/paper_costs.md: linear layers and convolutions count twice there, attention's products once.
    with torch.device("meta"):
        backbone = ViT(f"vit_{name}_patch16_384", (3, 480, 640))
        images = torch.zeros(1, 3, 480, 640)
        assert nets.giga_macs(backbone, images) == pytest.approx(encoder, rel=0.005)
        features = backbone(images)
        assert [tuple(f.shape[2:]) for f in features] == [(30, 40)] * 4
        decoder = DptHead([f.shape for f in features], 15, (480, 640))
        assert nets.giga_macs(decoder, features) == pytest.approx(head, rel=0.005)


def test_images_are_padded_to_whole_patches_and_maps_cut_to_the_image() -> None:
    backbone = ViT("test_vit", (1, 36, 50), blocks=TINY).eval()
    images = torch.randn(1, 1, 36, 50)
    maps = backbone(images)
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 3, 4)] * 4
    padded = ViT("test_vit", (1, 48, 64), blocks=TINY).eval()
    padded.load_state_dict(backbone.state_dict())
    whole = torch.zeros(1, 1, 48, 64)
    whole[:, :, :36, :50] = images
    assert all(torch.equal(a, b) for a, b in zip(maps, padded(whole), strict=True))
    head = DptHead([m.shape for m in maps], 2, (36, 50), width=8).eval()
    large = DptHead([m.shape for m in maps], 2, (48, 64), width=8).eval()
    large.load_state_dict(head.state_dict())
    assert torch.equal(head(maps), large(maps)[:, :, :36, :50])


def test_nothing_is_built_that_no_map_reads() -> None:
    backbone = ViT("test_vit", (3, 32, 32), blocks=TINY)
    maps = backbone(torch.randn(2, 3, 32, 32))
    head = DptHead([m.shape for m in maps], 2, (32, 32), width=8)
    head(maps).sum().backward()
    assert all(p.grad is not None for p in (*backbone.parameters(), *head.parameters()))


@pytest.mark.slow
def test_it_prunes_exactly_with_its_decoder(nets: SimpleNamespace) -> None:
    size = (32, 36)
    nets.assert_prunes_exactly(
        ViT("test_vit", (3, *size), blocks=(0, 1, 2, 3)), lambda s, c: DptHead(s, c, size, width=8), size
    )
