"""Zooms, turns, crops and mirrors that move an image and all its targets together."""

import pickle

import pytest
import torch
from torch import Tensor

from gate2static.data import Sample
from gate2static.data.contract import IGNORE
from gate2static.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    between,
    mirror,
    normalise,
    one_of,
    resize,
    warp,
)
from gate2static.tasks.kinds.l1_maps import INSTANCE_OFFSETS, KEYPOINTS

HEIGHT, WIDTH, FOCAL = 96, 128, 110.0
CENTRE = (WIDTH / 2 - 0.5, HEIGHT / 2 - 0.5)
KINDS = {"semantic": "semantic", "depth": "depth", "normals": "normals", "edges": "edges", "name": "classification"}


def grid() -> tuple[Tensor, Tensor]:
    rows, columns = torch.meshgrid(torch.arange(HEIGHT).float(), torch.arange(WIDTH).float(), indexing="ij")
    return columns, rows


def plane(normal: tuple[float, float, float]) -> Sample:
    """A plane 3 m away seen by a pinhole camera: its exact depth, its normal, and where each pixel was as the image."""
    columns, rows = grid()
    unit = torch.nn.functional.normalize(torch.tensor(normal), dim=0)
    rays = torch.stack([(columns - CENTRE[0]) / FOCAL, (rows - CENTRE[1]) / FOCAL, torch.ones_like(rows)])
    depth = 3 * unit[2] / (unit[:, None, None] * rays).sum(0)
    assert bool((depth > 0).all())
    image = torch.stack([columns, rows, torch.zeros_like(rows)])
    targets = {
        "semantic": (columns // 16).long(),
        "depth": depth[None],
        "normals": unit[:, None, None].expand(3, HEIGHT, WIDTH).clone(),
        "edges": (columns % 16 == 0).float()[None],
        "name": torch.tensor(3),
    }
    return image, targets


def normal_of(depth: Tensor, centre: tuple[float, float]) -> Tensor:
    """The normal of the plane that fits a depth map best, from the points that its pixels stand for."""
    columns, rows = grid()
    valid = depth[0] > 0
    z = depth[0][valid]
    points = torch.stack([(columns[valid] - centre[0]) / FOCAL * z, (rows[valid] - centre[1]) / FOCAL * z, z], dim=1)
    fit = torch.linalg.lstsq(points.double(), torch.ones(len(points), 1, dtype=torch.float64)).solution[:, 0]
    return torch.nn.functional.normalize(fit, dim=0).float()


def degrees_between(first: Tensor, second: Tensor) -> float:
    return float(torch.rad2deg(torch.linalg.vector_norm(torch.linalg.cross(first, second)).clamp(max=1).asin()))


def stored_normal(sample: Sample) -> Tensor:
    normals = sample[1]["normals"]
    return normals[:, HEIGHT // 2, WIDTH // 2]


@pytest.mark.parametrize("normal", [(0.4, -0.2, 0.8), (-0.5, 0.3, 0.9), (0.0, 0.6, 0.7)])
@pytest.mark.parametrize(
    ("zoom", "degrees", "move"), [(1.5, 0, (0, 0)), (1.2, 0, (9, -7)), (1, 20, (0, 0)), (0.8, -15, (4, 6))]
)
@pytest.mark.parametrize("mirrored", [False, True])
def test_stored_normals_are_those_of_the_changed_depth(
    normal: tuple[float, float, float], zoom: float, degrees: float, move: tuple[float, float], mirrored: bool
) -> None:
    sample = warp(plane(normal), KINDS, zoom=zoom, degrees=degrees, move=move)
    centre = (CENTRE[0] + move[0], CENTRE[1] + move[1])
    if mirrored:
        sample = mirror(sample, KINDS)
        centre = (WIDTH - 1 - centre[0], centre[1])
    found = normal_of(sample[1]["depth"], centre)
    assert degrees_between(stored_normal(sample), found) < 0.6
    before = torch.nn.functional.normalize(torch.tensor(normal), dim=0)
    assert degrees_between(before, found) > 2, "the case is too easy: the normal as it was would pass"


def test_a_point_keeps_its_place_beside_the_camera_when_it_comes_nearer() -> None:
    sample = warp(plane((0.4, -0.2, 0.8)), KINDS, zoom=1.5)
    columns, _ = grid()
    x_before = (sample[0][0] - CENTRE[0]) / FOCAL * sample[1]["depth"][0] * 1.5
    x_after = (columns - CENTRE[0]) / FOCAL * sample[1]["depth"][0]
    assert float((x_before - x_after).abs().max()) < 0.02


@pytest.mark.parametrize(("zoom", "degrees", "move"), [(1.5, 0, (0, 0)), (1.2, 11, (5, -3)), (0.75, -20, (8, 8))])
def test_image_and_targets_move_together(zoom: float, degrees: float, move: tuple[float, float]) -> None:
    columns, rows = grid()
    maps = {"x": columns[None] + 1, "y": rows[None] + 1}
    image, targets = warp(
        (torch.stack([columns + 1, rows + 1, columns]), maps),
        {"x": "depth", "y": "keypoints"},
        zoom=zoom,
        degrees=degrees,
        move=move,
    )
    inside = (targets["x"][0] > 0) & (image[2] > 0)
    # Where the picture ends the image fades into the margin; two pixels further in it does not.
    outside = torch.nn.functional.pad((~inside)[None].float(), (2, 2, 2, 2), value=1)
    inside = torch.nn.functional.max_pool2d(outside, 5, stride=1)[0] == 0
    assert float(inside.float().mean()) > 0.3
    assert float((image[0] - targets["x"][0] * zoom).abs()[inside].max()) <= 0.51
    assert float((image[1] - targets["y"][0]).abs()[inside].max()) <= 0.51


def test_targets_are_never_blended() -> None:
    before = plane((0.4, -0.2, 0.8))[1]
    after = warp(plane((0.4, -0.2, 0.8)), KINDS, zoom=0.7, degrees=13)[1]
    assert set(after["semantic"].unique().tolist()) <= {*before["semantic"].unique().tolist(), IGNORE}
    assert set(after["edges"].unique().tolist()) == {0.0, 1.0, float(IGNORE)}
    assert torch.isin(after["depth"] * 0.7, torch.cat([before["depth"].flatten(), torch.zeros(1)])).float().mean() > 0.9
    assert after["semantic"].dtype == torch.int64


def test_what_was_not_in_the_picture_is_not_judged() -> None:
    _, after = warp(plane((0.4, -0.2, 0.8)), KINDS, zoom=0.5)
    assert after["semantic"][0, 0] == IGNORE
    assert after["edges"][0, 0, 0] == IGNORE
    assert after["depth"][0, 0, 0] == 0
    assert after["normals"][:, 0, 0].tolist() == [0, 0, 0]
    assert after["name"] == 3


def test_heat_maps_are_not_judged_outside_the_picture() -> None:
    _, after = warp((torch.zeros(3, 8, 8), {"heat": torch.ones(1, 8, 8)}), {"heat": "keypoints"}, zoom=0.5)
    assert after["heat"][0, 0, 0] < 0
    assert float(KEYPOINTS.loss(torch.ones(1, 1, 8, 8), after["heat"][None])) == 0
    assert len(KEYPOINTS.prepare(torch.ones(1, 1, 8, 8), after["heat"][None])[0]) == 16


def offsets_from(centre: tuple[float, float]) -> Tensor:
    columns, rows = grid()
    return torch.stack([(columns - centre[0]) / WIDTH, (rows - centre[1]) / HEIGHT])


@pytest.mark.parametrize(
    ("zoom", "degrees", "move"), [(1.5, 0, (0, 0)), (1.2, 0, (9, -7)), (1, 20, (0, 0)), (0.8, -15, (4, 6))]
)
@pytest.mark.parametrize("mirrored", [False, True])
def test_offsets_stay_those_from_the_moved_centre(
    zoom: float, degrees: float, move: tuple[float, float], mirrored: bool
) -> None:
    kinds = {"instances": "instance_offsets"}
    # The instance's centre is the picture's, about which it is turned, and which is then moved.
    sample = (torch.zeros(3, HEIGHT, WIDTH), {"instances": offsets_from(CENTRE)})
    centre = (CENTRE[0] + move[0], CENTRE[1] + move[1])
    _, targets = sample = warp(sample, kinds, zoom=zoom, degrees=degrees, move=move)
    if mirrored:
        _, targets = mirror(sample, kinds)
        centre = (WIDTH - 1 - centre[0], centre[1])
    known = targets["instances"] != IGNORE
    assert torch.equal(known[0], known[1])
    assert float(known.float().mean()) > 0.5
    # Targets take their nearest pixel, which is half a pixel of the smaller picture away.
    errors = (targets["instances"] - offsets_from(centre)).abs()[known]
    assert float(errors.max()) < 0.75 * zoom / HEIGHT


def test_pixels_of_no_instance_stay_out_of_loss_and_metric() -> None:
    kinds = {"instances": "instance_offsets"}
    sample = (torch.zeros(3, 8, 8), {"instances": torch.full((2, 8, 8), float(IGNORE))})
    for changed in (warp(sample, kinds, zoom=1.5, degrees=9), warp(sample, kinds, zoom=0.5), mirror(sample, kinds)):
        target = changed[1]["instances"][None]
        assert bool((target == IGNORE).all())
        assert float(INSTANCE_OFFSETS.loss(torch.ones(1, 2, 8, 8), target)) == 0
        assert len(INSTANCE_OFFSETS.prepare(torch.ones(1, 2, 8, 8), target)[0]) == 0


def test_unknown_depth_and_normals_stay_unknown() -> None:
    image, targets = plane((0.4, -0.2, 0.8))
    targets["depth"][:, :, :64] = 0
    targets["normals"][:, :, :64] = 0
    _, after = warp((image, targets), KINDS, zoom=1.2, degrees=10)
    unknown = after["depth"][0] == 0
    assert 0.3 < float(unknown.float().mean()) < 0.7
    assert torch.equal(unknown, after["normals"].norm(dim=0) == 0)
    assert after["normals"].norm(dim=0)[~unknown].sub(1).abs().max() < 1e-5


def test_normals_without_a_depth_to_agree_with_stay_as_they_are() -> None:
    image, targets = plane((0.4, -0.2, 0.8))
    alone = (image, {"normals": targets["normals"]})
    after = warp(alone, {"normals": "normals"}, zoom=1.5)
    assert torch.allclose(stored_normal(after), stored_normal(alone))


def test_mirroring_twice_changes_nothing_and_nothing_happens_in_place() -> None:
    sample, copy = plane((0.4, -0.2, 0.8)), plane((0.4, -0.2, 0.8))
    twice = mirror(mirror(sample, KINDS), KINDS)
    warp(sample, KINDS, zoom=1.5)
    for one in (twice, sample):
        assert torch.equal(one[0], copy[0])
        assert all(torch.equal(one[1][name], copy[1][name]) for name in KINDS)


def test_resizing_changes_no_value_of_a_target() -> None:
    sample = plane((0.4, -0.2, 0.8))
    image, targets = resize(sample, KINDS, (48, 64))
    assert image.shape == (3, 48, 64)
    assert targets["semantic"].shape == (48, 64)
    assert bool(torch.isin(targets["depth"], sample[1]["depth"]).all())


def test_images_are_normalised_as_imagenet_is() -> None:
    image = torch.tensor(IMAGENET_MEAN)[:, None, None] + torch.tensor(IMAGENET_STD)[:, None, None] * torch.ones(3, 2, 2)
    assert torch.allclose(normalise(image), torch.ones(3, 2, 2), atol=1e-6)


def test_an_augmentation_follows_its_generator_and_can_be_sent_to_a_worker() -> None:
    augment = Augmentation(kinds=KINDS, zoom=one_of(1.0, 1.5), off_centre=True, degrees=between(-20, 20))
    sample = plane((0.4, -0.2, 0.8))
    first, again = (
        one(sample, torch.Generator().manual_seed(5)) for one in (augment, pickle.loads(pickle.dumps(augment)))
    )
    other = augment(sample, torch.Generator().manual_seed(6))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


def test_a_crop_off_the_centre_stays_within_the_picture() -> None:
    augment = Augmentation(kinds=KINDS, zoom=one_of(1.5), off_centre=True)
    for seed in range(20):
        _, targets = augment(plane((0.4, -0.2, 0.8)), torch.Generator().manual_seed(seed))
        assert IGNORE not in targets["semantic"]


def test_without_any_change_the_sample_is_the_same() -> None:
    sample = plane((0.4, -0.2, 0.8))
    assert Augmentation(kinds=KINDS, flip=False)(sample, torch.Generator()) is sample
