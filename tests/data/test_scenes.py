"""The rendered rooms: exact geometry, reproducibility, and the published pixels by digest."""

import pickle
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from gate2static import progress
from gate2static.data import describe_data, load_data, scenes
from gate2static.data.augmented import Augmented
from gate2static.data.contract import Sample, Splits
from gate2static.data.scenes import CLASSES, TARGETS, TEST, TRAIN, ScenesOptions, describe
from gate2static.data.scenes.furniture import BUILDERS, FURNITURE
from gate2static.data.scenes.layout import draw_scene
from gate2static.data.scenes.maps import edges, salient
from gate2static.data.scenes.render import Surfaces, see
from gate2static.data.scenes.rooms import make_room
from gate2static.data.scenes.solids import BALL, BOX, CYLINDER, Solid, Solids
from gate2static.data.transforms import mirror
from gate2static.errors import RecipeError
from gate2static.recipe import DataRecipe

SMALL = {"train_images": 6, "val_images": 3, "test_images": 4, "size": 32}
KINDS = {name: target.kind for name, target in TARGETS.items()}
SEEDS = range(12)


def generator(*words: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def load(options: ScenesOptions) -> Splits:
    return scenes.load(options, describe(options))


def samples(**options: int | bool) -> Iterator[Sample]:
    data = load(ScenesOptions(**{**SMALL, **options})).train
    return (data[i] for i in range(len(data)))  # type: ignore[arg-type]


# What is drawn


def test_an_image_follows_from_seed_split_and_index_alone() -> None:
    few, many = load(ScenesOptions(**SMALL)), load(ScenesOptions(**{**SMALL, "train_images": 9, "val_images": 1}))
    for index in range(6):
        assert torch.equal(few.train[index][0], many.train[index][0])
        assert same(few.train[index][1], many.train[index][1])
    assert same(few.test[3][1], many.test[3][1])
    assert same(make_room(0, TEST, 3, 32), make_room(0, TEST, 3, 32))


def test_rooms_stay_what_they_were() -> None:
    """Published results are of these very rooms; who changes them on purpose measures again."""
    room = make_room(0, TRAIN, 0, 64)
    counts = torch.bincount(room["semantic"].flatten().int(), minlength=len(CLASSES))
    # Another machine may round a pixel at a border to the other side.
    expected = torch.tensor([487, 1264, 820, 0, 124, 61, 780, 0, 0, 221, 269, 0, 70])
    assert (counts - expected).abs().max() <= 2
    assert float(room["depth"].double().mean()) == pytest.approx(3.1449431588, rel=1e-4)
    assert float(room["image"].double().mean()) == pytest.approx(137.124, abs=0.05)
    assert room["normals"].double().div(32767).mean((1, 2)).tolist() == pytest.approx(
        [0.1172, 0.1101, -0.3104], abs=1e-3
    )
    assert int(room["edges"].sum()) == pytest.approx(560, abs=4)
    assert int(room["saliency"].sum()) == pytest.approx(253, abs=2)


def test_seeds_splits_and_indices_give_different_rooms() -> None:
    rooms_ = [make_room(*words, 32)["depth"] for words in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 2, 0))]
    assert len({tuple(room.flatten().tolist()) for room in rooms_}) == len(rooms_)


def test_loading_leaves_the_global_generators_alone() -> None:
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[union-attr,index]
    load(ScenesOptions(**SMALL))
    assert torch.equal(torch_before, torch.get_rng_state())
    assert numpy_before == np.random.get_state()[1].tolist()  # type: ignore[union-attr,index]


def test_samples_are_what_the_description_and_the_contract_say() -> None:
    recipe = DataRecipe(name="scenes", options=SMALL)
    spec, data = describe_data(recipe), load_data(recipe)
    assert (len(data.train), len(data.val), len(data.test)) == (6, 3, 4)  # type: ignore[arg-type]
    image, targets = data.val[2]
    assert image.shape == spec.image_shape
    assert image.dtype == torch.float32
    assert -2.2 < float(image.min()) < float(image.max()) < 2.7
    assert {name: (value.dtype, tuple(value.shape)) for name, value in targets.items()} == {
        "semantic": (torch.int64, (32, 32)),
        "depth": (torch.float32, (1, 32, 32)),
        "normals": (torch.float32, (3, 32, 32)),
        "edges": (torch.float32, (1, 32, 32)),
        "saliency": (torch.float32, (1, 32, 32)),
    }
    assert set(targets) == set(spec.targets)


def test_values_are_those_of_rooms() -> None:
    for _, targets in samples(train_images=20):
        assert targets["depth"].min() > 0.05
        assert targets["depth"].max() < 11  # no room's diagonal is longer
        torch.testing.assert_close(targets["normals"].norm(dim=0), torch.ones(32, 32), atol=1e-4, rtol=0)
        assert set(targets["edges"].unique().tolist()) == {0.0, 1.0}
        assert set(targets["saliency"].unique().tolist()) <= {0.0, 1.0}
        assert 0 <= targets["semantic"].min() <= targets["semantic"].max() < len(CLASSES)


def test_every_class_is_seen() -> None:
    seen = {int(label) for _, targets in samples(train_images=60) for label in targets["semantic"].unique()}
    assert seen == set(range(len(CLASSES)))
    assert set(CLASSES[3:]) == set(BUILDERS)


def test_colour_does_not_tell_the_class() -> None:
    means: dict[int, list[Tensor]] = {}
    for image, targets in samples(train_images=80):
        for label in targets["semantic"].unique().tolist():
            means.setdefault(label, []).append(image[:, targets["semantic"] == label].mean(dim=1))
    within = torch.stack([torch.stack(values).std(dim=0) for values in means.values()]).mean()
    between = torch.stack([torch.stack(values).mean(dim=0) for values in means.values()]).std(dim=0).mean()
    assert between < 0.75 * within


# Geometry


def plane_gaps(points: Tensor, normals: Tensor, faces: Tensor, along: int) -> Tensor:
    """How far neighbours on one flat side of one solid lie out of each other's planes, in metres."""
    (first, second), (face, other) = (
        (values.narrow(dim, 0, 63), values.narrow(dim, 1, 63)) for values, dim in ((normals, along), (faces, along - 1))
    )
    flat = (face == other) & (first == second).all(dim=0)
    assert flat.float().mean() > 0.75
    return (first * points.diff(dim=along)).sum(dim=0)[flat].abs()


def test_points_from_depth_alone_lie_in_the_planes_of_the_normals() -> None:
    for seed in SEEDS:
        scene, found = draw_scene(generator(seed, 0, 0)), make_room(seed, 0, 0, 64)
        faces = torch.from_numpy(see(scene, 64).faces).reshape(64, 64)
        points = torch.from_numpy(scene.camera.rays(64)).reshape(3, 64, 64) * found["depth"]
        for along in (1, 2):
            # What is left is rounding: depth has 24 bits, normals have 16.
            assert plane_gaps(points, found["normals"].double() / 32767, faces, along).max() < 1e-4


def test_normals_from_finite_differences_of_depth_agree_with_those_given() -> None:
    for seed in SEEDS:
        scene, found = draw_scene(generator(seed, 0, 0)), make_room(seed, 0, 0, 64)
        faces = torch.from_numpy(see(scene, 64).faces).reshape(64, 64)
        points = torch.from_numpy(scene.camera.rays(64)).reshape(3, 64, 64) * found["depth"]
        across, down = points[:, :-1].diff(dim=2), points[:, :, :-1].diff(dim=1)
        # x right and y down make a cross product into the picture; normals point out of it.
        estimate = torch.nn.functional.normalize(torch.linalg.cross(down, across, dim=0), dim=0)
        cosine = (estimate * found["normals"][:, :-1, :-1] / 32767).sum(dim=0)
        one_face = (faces[:-1, :-1] == faces[:-1, 1:]) & (faces[:-1, :-1] == faces[1:, :-1])
        normals = found["normals"]
        flat = one_face & (normals[:, :-1, :-1] == normals[:, :-1, 1:]).all(dim=0)
        assert flat.float().mean() > 0.7
        assert cosine[flat].min() > 0.9999
        assert (cosine[one_face] > 0.9).float().mean() > 0.97  # a pole two pixels wide has no good differences


def test_surfaces_face_the_camera() -> None:
    for seed in SEEDS:
        scene = draw_scene(generator(seed, 0, 0))
        normals = scene.camera.from_world(see(scene, 32).normals)
        assert ((normals * scene.camera.rays(32)).sum(axis=0) < 1e-9).all()


def test_a_camera_looks_along_its_z_axis_with_y_down() -> None:
    camera = draw_scene(generator(0)).camera
    np.testing.assert_allclose(camera.axes @ camera.axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(camera.axes) > 0
    assert camera.axes[1, 2] < -0.5
    rays = camera.rays(8).reshape(3, 8, 8)
    assert rays[0, 0, -1] > 0 > rays[1, 0, -1]
    assert (rays[2] == 1).all()
    np.testing.assert_allclose(rays[0], -rays[0][:, ::-1])


@pytest.mark.parametrize(
    ("shape", "distance", "normal"),
    [(BOX, 3.0, (0, -1, 0)), (CYLINDER, 3.0, (0, -1, 0)), (BALL, 3.0, (0, -1, 0))],
)
def test_solids_are_met_where_they_are(shape: int, distance: float, normal: tuple[int, int, int]) -> None:
    solids = Solids.of([Solid(shape, (1.0, 4.0, 1.0), (1.0, 1.0, 1.0), 0.0, 1, 0)])
    origin, directions = np.array([1.0, 0.0, 1.0]), np.array([[0, 0, 0], [1, 2, -1], [0, 0, 0]]).astype(float)
    found, index = solids.first_hits(origin, directions)
    np.testing.assert_allclose(found, [distance, distance / 2, np.inf])
    assert index.tolist() == [0, 0, -1]
    point = origin + distance * directions[:, 0] - solids.centre[0]
    np.testing.assert_allclose(solids.normals(index[:1], point[:, None])[0][:, 0], normal, atol=1e-12)


def test_a_turned_box_is_met_on_its_corner_and_its_normals_turn_with_it() -> None:
    solids = Solids.of([Solid(BOX, (0.0, 4.0, 0.0), (1.0, 1.0, 1.0), np.pi / 4, 1, 0)])
    origin, direction = np.zeros(3), np.array([[0.1], [4.0], [0.0]])
    distance, index = solids.first_hits(origin, direction)
    point = distance * direction
    assert abs(point[0, 0]) + abs(point[1, 0] - 4) == pytest.approx(np.sqrt(2))
    normal, _ = solids.normals(index, solids.turned(index, point - solids.centre[index].T))
    np.testing.assert_allclose(normal[:, 0], [np.sqrt(0.5), -np.sqrt(0.5), 0], atol=1e-12)


def test_the_nearest_of_all_solids_is_found_whatever_is_left_out_on_the_way() -> None:
    """Against every solid and every ray, one at a time."""
    for seed in SEEDS:
        scene = draw_scene(generator(seed, 0, 0))
        directions = scene.camera.to_world(scene.camera.rays(16))
        found, _ = scene.solids.first_hits(scene.camera.position, directions)
        single = np.full_like(found, np.inf)
        for k in range(len(scene.solids.shape)):
            one = Solids(**{name: value[k : k + 1] for name, value in vars(scene.solids).items()})
            single = np.minimum(single, one.first_hits(scene.camera.position, directions)[0])
        np.testing.assert_array_equal(found, single)


def test_ordered_by_shape_or_not_solids_are_the_same() -> None:
    parts = [Solid(shape, (k * 1.0, 5.0, 0.0), (0.4, 0.4, 0.4), 0.0, k, k) for k, shape in enumerate((2, 0, 1, 0))]
    solids = Solids.of(parts)
    _, index = solids.first_hits(np.zeros(3), np.array([[0.0, 1, 2, 3], [5.0] * 4, [0.0] * 4]))
    assert solids.object[index].tolist() == [0, 1, 2, 3]


def test_nothing_stands_in_the_camera_or_outside_the_room() -> None:
    for seed in range(60):
        scene = draw_scene(generator(seed))
        corners = np.hypot(scene.solids.half[:, 0], scene.solids.half[:, 1])
        furniture = scene.classes[scene.solids.object] >= FURNITURE
        distance = np.linalg.norm((scene.solids.centre - scene.camera.position)[:, :2], axis=1)
        assert (distance[furniture] > np.minimum(0.4, corners[furniture])).all()
        assert ((scene.solids.centre > -1e-9) & (scene.solids.centre < scene.room + 1e-9)).all()
        assert see(scene, 16).depth.min() > 0.05


# Edges and saliency


def flat_surfaces(objects: list[list[int]], depth: list[list[float]] | None = None) -> Surfaces:
    """A wall seen head-on with things in front; pixels a centimetre apart."""
    ids = np.array(objects)
    size = len(ids)
    depths = np.array(depth) if depth else np.full((size, size), 3.0)
    rows, columns = np.meshgrid(np.arange(size) * 0.01, np.arange(size) * 0.01, indexing="ij")
    points = np.stack([columns, rows, depths]).reshape(3, -1)
    normals = np.tile([[0.0], [0.0], [-1.0]], size * size)
    classes = np.where(ids > 0, FURNITURE, 2).ravel()
    return Surfaces(
        depth=depths.ravel(), points=points, normals=normals, classes=classes, objects=ids.ravel(), faces=ids.flatten(),
        textures=ids.ravel(), local=points,
    )  # fmt: skip


def test_an_edge_is_one_pixel_wide_and_on_the_nearer_side() -> None:
    depth = [[3.0, 2.0, 2.0, 3.0]] * 4
    found = edges(flat_surfaces([[0, 1, 1, 0]] * 4, depth), 4)
    assert found.tolist() == [[False, True, True, False]] * 4


def test_sides_of_one_object_have_an_edge_only_where_they_meet_sharply_or_step() -> None:
    surfaces = flat_surfaces([[1, 1, 1, 1]] * 4)
    surfaces.faces[:] = np.tile([0, 0, 1, 1], 4)
    assert not edges(surfaces, 4).any()
    bent = flat_surfaces([[1, 1, 1, 1]] * 4)
    bent.faces[:] = np.tile([0, 0, 1, 1], 4)
    bent.normals[:, bent.faces == 1] = np.array([[np.sin(0.3)], [0], [-np.cos(0.3)]])
    assert edges(bent, 4).any(axis=0).tolist() == [False, True, False, False]
    stepped = flat_surfaces([[1, 1, 1, 1]] * 4, [[3.0, 3.0, 2.9, 2.9]] * 4)
    stepped.faces[:] = np.tile([0, 0, 1, 1], 4)
    assert edges(stepped, 4).any(axis=0).tolist() == [False, False, True, False]


def test_the_salient_object_is_large_and_central() -> None:
    off_centre = [[2, 2, 2, 2], [2, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert salient(flat_surfaces(off_centre), 4).tolist() == [[label == 1 for label in row] for row in off_centre]
    large = [[2, 2, 2, 2], [2, 1, 2, 2], [2, 2, 2, 2], [2, 2, 2, 2]]
    assert salient(flat_surfaces(large), 4).tolist() == [[label == 2 for label in row] for row in large]


def test_only_furniture_is_salient() -> None:
    assert not salient(flat_surfaces([[0, 0], [0, 0]]), 2).any()
    hanging = flat_surfaces([[1, 1], [1, 2]])
    hanging.classes[hanging.objects == 1] = FURNITURE - 1
    assert salient(hanging, 2).tolist() == [[False, False], [False, True]]
    for _, targets in samples(train_images=20):
        assert (targets["semantic"][targets["saliency"][0] == 1] >= FURNITURE).all()


# Augmentation and memory


def test_augmentation_mirrors_half_of_the_training_images_and_nothing_else() -> None:
    plain, flipped = (load(ScenesOptions(**{**SMALL, "train_images": 24, "augment": a})) for a in (False, True))
    assert isinstance(flipped.train, Augmented)
    kept = [torch.equal(plain.train[i][0], flipped.train[i][0]) for i in range(24)]
    assert 5 < sum(kept) < 19
    for index in range(24):
        image, targets = plain.train[index] if kept[index] else mirror(plain.train[index], KINDS)
        assert torch.equal(image, flipped.train[index][0])
        assert same(targets, flipped.train[index][1])
    assert torch.equal(plain.test[0][0], flipped.test[0][0])


def test_a_mirrored_room_is_again_exact() -> None:
    scene = draw_scene(generator(3, 0, 0))
    _, targets = mirror(next(iter(samples(seed=3, size=64))), KINDS)
    points = torch.from_numpy(scene.camera.rays(64)).reshape(3, 64, 64) * targets["depth"]
    faces = torch.from_numpy(see(scene, 64).faces).reshape(64, 64).flip(-1)
    for along in (1, 2):
        assert plane_gaps(points, targets["normals"].double(), faces, along).max() < 1e-4


def test_only_wanted_targets_are_held() -> None:
    data = load_data(DataRecipe(name="scenes", options={**SMALL, "augment": True}), targets={"depth", "normals"})
    whole = load(ScenesOptions(**SMALL))
    assert set(data.val.maps) == {"image", "depth", "normals"}  # type: ignore[attr-defined]
    assert set(data.train[0][1]) == {"depth", "normals"}
    assert torch.equal(data.val[1][1]["normals"], whole.val[1][1]["normals"])


def test_an_image_of_64_takes_64_kibibytes() -> None:
    held = load(ScenesOptions(**{**SMALL, "size": 64})).train.maps  # type: ignore[attr-defined]
    assert sum(value.nbytes for value in held.values()) / 6 / 1024 <= 64


def test_workers_can_be_started_in_any_way() -> None:
    data = load(ScenesOptions(**{**SMALL, "augment": True})).train
    assert torch.equal(pickle.loads(pickle.dumps(data))[2][0], data[2][0])


def test_long_rendering_shows_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_PATIENCE_S", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    load(ScenesOptions(**SMALL))
    assert "rendering scenes" in capsys.readouterr().err


def test_short_rendering_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    load(ScenesOptions(**{**SMALL, "train_images": 1, "val_images": 1, "test_images": 1}))
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "")


@pytest.mark.parametrize("options", [{"size": 8}, {"train_images": 0}, {"seed": -1}])
def test_impossible_options_are_refused(options: dict[str, int]) -> None:
    name = next(iter(options))
    with pytest.raises(RecipeError, match=rf"data\.options.*{name}"):
        describe_data(DataRecipe(name="scenes", options=options))
