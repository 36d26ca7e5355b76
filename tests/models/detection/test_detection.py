"""The network for images with depth: its pyramid gated and pruned, its losses in training, its detections."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

import gate2static as g2s
from benchmarks.metagraspnet.tiny_scenes import SIZE, write_viewpoint
from gate2static.data.metagraspnet import MetaGraspNet, Objects
from gate2static.errors import RecipeError, TrainingError
from gate2static.models.build import find_backbone
from gate2static.models.detection import (
    GROUPS,
    LEVELS,
    LOSSES,
    DetectionHeads,
    Detections,
    RGBDPyramid,
    rgbd_resnet18_fpn,
)
from gate2static.models.detection.heads import _mask_loss
from gate2static.models.weights import LibraryOptions

WIDTH = 16


class TinyStages(nn.Module):
    """Four stages at strides 4 to 32, as narrow as they can be."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(inputs, 8, 3, 4, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.layers = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(3)]
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = [self.stem(x)]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        return tuple(maps)


def tiny_pyramid() -> RGBDPyramid:
    torch.manual_seed(0)
    return RGBDPyramid(TinyStages(3), TinyStages(1), channels=(8, 8, 8, 8), width=WIDTH)


def tiny_heads(classes: int = 1) -> DetectionHeads:
    torch.manual_seed(1)
    return DetectionHeads(classes, channels=WIDTH, width=32, mask_layers=1, proposals=50)


def shared(pyramid: nn.Module, images: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """What the groups read of a network without gates."""
    maps = pyramid(images)
    return dict.fromkeys(GROUPS, maps)


@pytest.fixture
def sample(tmp_path: Path) -> tuple[Tensor, list[Objects]]:
    write_viewpoint(tmp_path / "scene0", 0)
    image, objects = MetaGraspNet(tmp_path, size=SIZE)[0]
    return image[None], [objects]


def losses(features: dict[str, tuple[Tensor, ...]], heads: DetectionHeads, objects: list[Objects]) -> dict[str, Tensor]:
    found = heads.train()(features, SIZE, objects)
    assert isinstance(found, dict)
    return found


def detections(features: dict[str, tuple[Tensor, ...]], heads: DetectionHeads) -> list[Detections]:
    found = heads.eval()(features, SIZE)
    assert isinstance(found, list)
    return found


def test_the_pyramid_has_five_levels_at_strides_4_to_64() -> None:
    maps = tiny_pyramid()(torch.randn(2, 4, 128, 192))
    assert [tuple(each.shape) for each in maps] == [
        (2, WIDTH, 128 // stride, 192 // stride) for stride in (4, 8, 16, 32, 64)
    ]
    assert len(maps) == len(LEVELS)


def test_depth_and_colours_both_reach_the_pyramid() -> None:
    images = torch.randn(1, 4, 64, 64, requires_grad=True)
    tiny_pyramid().eval()(images)[0].sum().backward()
    assert images.grad is not None
    assert bool((images.grad.abs().sum((0, 2, 3)) > 0).all())


def test_the_seven_losses_are_finite_and_train_every_head(sample: tuple[Tensor, list[Objects]]) -> None:
    images, objects = sample
    pyramid, heads = tiny_pyramid(), tiny_heads()
    found = losses(shared(pyramid, images), heads, objects)
    assert tuple(found) == LOSSES
    assert all(bool(loss.isfinite()) for loss in found.values())
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert [name for name, p in [*heads.named_parameters(), *pyramid.named_parameters()] if p.grad is None] == []


@pytest.mark.slow
def test_the_losses_of_one_image_fall_and_its_objects_are_found(sample: tuple[Tensor, list[Objects]]) -> None:
    images, objects = sample
    pyramid, heads = tiny_pyramid(), tiny_heads()
    parameters = [*pyramid.parameters(), *heads.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=3e-3)
    totals: list[dict[str, float]] = []
    for _ in range(60):
        found = losses(shared(pyramid, images), heads, objects)
        optimiser.zero_grad()
        torch.stack(list(found.values())).sum().backward()
        optimiser.step()
        totals.append({name: loss.item() for name, loss in found.items()})
    # Regions are drawn at random, so means over steps are compared.
    first, last = ({name: sum(step[name] for step in steps) for name in LOSSES} for steps in (totals[:5], totals[-5:]))
    assert sum(last.values()) < sum(first.values()) / 2
    # Of boxes that are proposed at first, nearly none holds an object, and only those count in `det`.
    assert [name for name in LOSSES if last[name] > first[name]] in ([], ["det"])
    pyramid.eval()
    with torch.no_grad():
        (best,) = detections(shared(pyramid, images), heads)
    assert best["visible"].shape == best["amodal"].shape == (len(best["boxes"]), *SIZE)
    overlap = box_iou(objects[0]["boxes"], best["boxes"])
    assert float(overlap.max(dim=1).values.min()) > 0.5


def leaves() -> dict[str, tuple[Tensor, ...]]:
    """Features of each group's own, at the five levels of the tiny scenes."""
    sides = [(24, 32), (12, 16), (6, 8), (3, 4), (2, 2)]
    return {group: tuple(torch.randn(1, WIDTH, *side, requires_grad=True) for side in sides) for group in GROUPS}


@pytest.mark.parametrize(("group", "names"), [("proposals", LOSSES[:2]), ("boxes", LOSSES[2:4]), ("masks", LOSSES[4:])])
def test_each_group_of_heads_reads_its_own_features(
    group: str, names: tuple[str, ...], sample: tuple[Tensor, list[Objects]]
) -> None:
    features = leaves()
    found = losses(features, tiny_heads(), sample[1])
    torch.stack([found[name] for name in names]).sum().backward()
    assert [other for other in GROUPS if features[other][0].grad is not None] == [group]


def test_each_mask_and_occlusion_is_compared_with_its_own_truth(sample: tuple[Tensor, list[Objects]]) -> None:
    """Heads that say nothing is seen, everything is there and nothing is hidden, on objects of which that is true."""
    heads = tiny_heads()
    answers = {heads.masks.visible_mask.mask_fcn_logits: -9.0, heads.masks.amodal_mask.mask_fcn_logits: 9.0}
    for layer, answer in {**answers, heads.masks.occluded: -9.0}.items():
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, answer)
    (objects,) = sample[1]
    objects["visible"] = torch.zeros_like(objects["visible"])
    objects["amodal"] = torch.ones_like(objects["amodal"])
    objects["occluded"] = torch.zeros_like(objects["occluded"])
    features = leaves()
    found = losses(features, heads, [objects])
    assert max(found[name].item() for name in ("vsb", "amd", "occ")) < 0.001
    with torch.no_grad():
        (seen,) = detections(features, heads)
    assert len(seen["boxes"])
    assert not bool(seen["visible"].any())
    assert bool(seen["amodal"].flatten(1).any(dim=1).all())
    assert float(seen["occluded"].max()) < 0.001


def test_images_without_objects_train_too(sample: tuple[Tensor, list[Objects]], tmp_path: Path) -> None:
    write_viewpoint(tmp_path / "empty" / "scene0", 0, rectangles=())
    _, objects = MetaGraspNet(tmp_path / "empty", size=SIZE)[0]
    found = losses(shared(tiny_pyramid(), sample[0]), tiny_heads(), [objects])
    assert all(bool(loss.isfinite()) for loss in found.values())
    assert [found[name].item() for name in ("vsb", "amd", "occ")] == [0, 0, 0]


def test_training_without_objects_says_what_is_missing(sample: tuple[Tensor, list[Objects]]) -> None:
    with pytest.raises(TrainingError, match="targets is None; allowed in training are the objects of each image"):
        tiny_heads().train()(shared(tiny_pyramid(), sample[0]), SIZE)


def test_a_mask_is_learned_in_the_frame_of_its_region(sample: tuple[Tensor, list[Objects]]) -> None:
    """A mask that is exact has no loss but that of its edges, and is wrong elsewhere and the other way round."""
    _, (objects,) = sample
    region = objects["boxes"][:1]
    # The second rectangle hides the lower right part of the first.
    exact = torch.nn.functional.interpolate(
        objects["visible"][0, 10:60, 12:62][None, None].float(), (28, 28), mode="bilinear"
    )
    logits = (exact - 0.5) * 6
    owners = [torch.tensor([0])]
    right = float(_mask_loss(logits, [objects["visible"]], [region], owners))
    mirrored = float(_mask_loss(logits.flip(-1), [objects["visible"]], [region], owners))
    elsewhere = float(_mask_loss(logits, [objects["visible"]], [objects["boxes"][2:]], [torch.tensor([2])]))
    assert right < 0.2 < min(mirrored, elsewhere)


@pytest.mark.slow
def test_gated_and_pruned_up_to_the_pyramid_the_heads_find_the_same(sample: tuple[Tensor, list[Objects]]) -> None:
    images, objects = sample
    gated = g2s.gate(
        tiny_pyramid().eval(),
        tasks=GROUPS,
        example_inputs=(torch.randn(2, 4, *SIZE),),
        heads={group: nn.Identity() for group in GROUPS},
        gate_init=0.0,
        gate_init_std=1.0,
    )
    heads = tiny_heads()
    optimiser = torch.optim.SGD([*gated.parameters(), *heads.parameters()], lr=1e-3)
    for _ in range(2):
        found = losses(gated.train()(images), heads, objects)
        hinge = g2s.sparsity_hinge(gated, targets=dict.fromkeys(GROUPS, 0.0))
        optimiser.zero_grad()
        (torch.stack(list(found.values())).sum() + hinge).backward()
        optimiser.step()
    static = g2s.prune(gated.eval())
    assert static.manifest.barriers == {}
    assert static.manifest.macs.static < static.manifest.macs.separate
    assert g2s.verify(gated, static).passed
    with torch.no_grad():
        of_gated, of_static = gated(images), static(images)
        torch.testing.assert_close(of_static, of_gated, rtol=1e-4, atol=1e-4)
        (before,), (after,) = detections(of_gated, heads), detections(of_static, heads)
    for name in ("boxes", "scores", "occluded"):
        torch.testing.assert_close(after[name], before[name], rtol=1e-3, atol=1e-3)


def test_depth_starts_from_the_sum_of_the_colours_weights() -> None:
    torch.manual_seed(0)
    pyramid = rgbd_resnet18_fpn()
    assert pyramid.depth.stem[0].weight.shape == (64, 1, 7, 7)  # type: ignore[index, union-attr]
    assert pyramid.colour.stem[0].weight.shape == (64, 3, 7, 7)  # type: ignore[index, union-attr]


def test_a_recipe_knows_the_backbone_and_it_takes_images_with_depth_alone() -> None:
    entry = find_backbone("rgbd_resnet18_fpn")
    options = LibraryOptions()
    with pytest.raises(
        RecipeError, match="rgbd_resnet18_fpn takes images of 4 channels, RGB and depth; the data set's have 3"
    ):
        entry.build((3, 64, 64), options)
    assert isinstance(entry.build((4, 64, 64), options), RGBDPyramid)


@pytest.mark.slow
def test_both_resnets_are_gated_and_pruned_to_one_static_network() -> None:
    images = torch.randn(2, 4, 64, 64)
    heads = {group: nn.Identity() for group in GROUPS}
    gated = g2s.gate(rgbd_resnet18_fpn().eval(), tasks=GROUPS, example_inputs=(images,), heads=heads).eval()
    static = g2s.prune(gated)
    assert static.manifest.barriers == {}
    with torch.no_grad():
        torch.testing.assert_close(static(images), gated(images), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_documented_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("faster_coco_eval")
    for scene in range(2):
        write_viewpoint(tmp_path / f"scene{scene}", 0, shift=scene)
    page = Path("docs/metagraspnet.md").read_text(encoding="utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    for written, here in {
        "/data/metagraspnet": str(tmp_path),
        "(512, 512)": str(SIZE),
        "rgbd_resnet18_fpn(pretrained=True)": "narrow_pyramid()",
    }.items():
        assert written in code
        code = code.replace(written, here)
    # As wide at its end as the documented one, whose ResNets would take a minute.
    narrow = RGBDPyramid(TinyStages(3), TinyStages(1), channels=(8, 8, 8, 8))
    exec(code, {"narrow_pyramid": lambda: narrow})
    assert "boxes/mAP" in capsys.readouterr().out
