"""Backbones in stages: where they are cut, and that the stages compute what the backbone computes."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from gate2static.architectures import split
from gate2static.errors import ArchitectureError


def trunk(name: str) -> nn.Module:
    return timm.create_model(name, features_only=True, out_indices=(-1,))


def resnet() -> nn.Module:
    network = torchvision.models.resnet18()
    return nn.Sequential(*list(network.children())[:-2])


X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def chain(backbone: nn.Module, x: Tensor = X, **options: Any) -> tuple[Any, Any]:
    stages = split(backbone, (x,), **options)
    values: Any = (x,)
    with torch.no_grad():
        for stage in stages.copy().eval():
            values = stage(*values)
    return stages, values


def test_a_residual_network_is_cut_behind_its_stages() -> None:
    backbone = resnet()
    stages, (found,) = chain(backbone)
    assert stages.shapes == (((64, 16, 16),), ((128, 8, 8),), ((256, 4, 4),), ((512, 2, 2),))
    torch.testing.assert_close(found, backbone.eval()(X))


def test_blocks_end_where_everything_passes_through() -> None:
    stages, _ = chain(resnet(), places="blocks")
    # Behind the stem there are two blocks per stage.
    assert [shape[0] for (shape,) in stages.shapes][-8:] == [64, 64, 128, 128, 256, 256, 512, 512]


def test_last_blocks_come_in_pairs_of_one_shape() -> None:
    stages, _ = chain(resnet(), places="last blocks")
    assert stages.shapes[0::2] == stages.shapes[1::2]
    assert len(stages.modules) == 9


def test_modules_are_places() -> None:
    backbone = resnet()
    stages, (found,) = chain(backbone, places=["4", "6"])
    assert stages.shapes == (((64, 16, 16),), ((256, 4, 4),))
    torch.testing.assert_close(found, backbone.eval()(X))


class Pyramid(nn.Module):
    """Returns the values of all stages, as what a decoder of several scales reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first = torch.relu(self.first(x))
        return {"fine": first, "coarse": torch.relu(self.second(first))}


def test_values_that_are_returned_early_are_passed_on() -> None:
    backbone = Pyramid()
    stages, found = chain(backbone)
    assert stages.shapes == (((8, 64, 64),), ((16, 32, 32),))
    assert stages.passed == (0, 1)
    expected = backbone(X)
    torch.testing.assert_close(stages.structure.build(found), {key: value.detach() for key, value in expected.items()})


def test_several_values_may_cross_a_place() -> None:
    """As behind a stage of HRNet, whose resolutions run side by side."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.split = nn.ModuleDict({"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 6, 1)})
            self.join = nn.Conv2d(10, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.join(torch.cat([self.split["a"](x), self.split["b"](x)], 1))

    backbone = Two()
    stages, (found,) = chain(backbone, places=["split.b"])
    assert stages.shapes == (((4, 64, 64), (6, 64, 64)),)
    torch.testing.assert_close(found, backbone(X).detach())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "vit_tiny_patch16_224", "convnext_atto", "resnet50"])
def test_networks_of_other_families_are_cut(name: str) -> None:
    size = 224 if "vit" in name else 64
    x = torch.randn(2, 3, size, size)
    backbone = timm.create_model(name, num_classes=0)
    stages, (found,) = chain(backbone, x)
    assert 3 <= len(stages.shapes) <= 6
    torch.testing.assert_close(found, backbone.eval()(x).detach(), rtol=1e-3, atol=1e-4)


CASES: list[tuple[Callable[[], nn.Module], Any, str]] = [
    (resnet, "layers", "places is 'layers'; allowed are 'stages', 'last blocks', 'blocks'"),
    (resnet, ["layer9"], "the backbone runs no module 'layer9'"),
]


@pytest.mark.parametrize(("backbone", "places", "message"), CASES)
def test_places_that_do_not_exist_are_refused(backbone: Callable[[], nn.Module], places: Any, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        split(backbone(), (X,), places)


def test_a_network_without_cuts_is_refused_with_advice() -> None:
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.paths = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)) for _ in range(2))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.paths[0](x), self.paths[1](x)

    with pytest.raises(ArchitectureError, match=r"it is to be cut, such as places=\['paths'"):
        split(Parallel(), (X,))


def test_parameters_that_stages_share_stay_shared() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)
            self.stem = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(self.stem(x))
            return self.conv(torch.nn.functional.avg_pool2d(x, 2))

    backbone = Tied()
    copies = split(backbone, (X,), ["stem"]).copy()
    assert sum(p.numel() for p in copies.parameters()) == sum(p.numel() for p in backbone.parameters())
