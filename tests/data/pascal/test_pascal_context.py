"""PASCAL-Context (PASCAL_MT): targets, augmentation, and files that are missing or broken."""

import pickle
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch import Tensor

from gate2static.data import Splits, describe_data, load_data
from gate2static.data.contract import IGNORE
from gate2static.data.pascal.classes import HUMAN_PART_OF, HUMAN_PARTS, NORMALS_LABELS, PERSON
from gate2static.errors import DataError
from gate2static.recipe import DataRecipe
from gate2static.recipe.schema import Option

TRAIN, VAL = ("2008_000002", "2008_000003"), ("2008_000007",)
SKY, SOFA = 360, 368
SIZE = (24, 32)
"""Of the stored pictures (H, W)."""


def objects(items: Iterable[tuple[int, list[tuple[str, np.ndarray]]]], size: tuple[int, int] = SIZE) -> np.ndarray:
    """Objects of PASCAL-Part: a class and its parts, each with a mask."""
    made = []
    for class_ind, parts in items:
        struct = np.array([(name, mask) for name, mask in parts], dtype=[("part_name", object), ("mask", object)])
        made.append(("thing", class_ind, np.ones(size, np.uint8), struct[None] if len(struct) else np.zeros((0, 0))))
    return np.array(made, dtype=[("class", object), ("class_ind", object), ("mask", object), ("parts", object)])[None]


def block(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[rows, columns] = 1
    return mask


def write_parts(path: Path, items: Iterable[tuple[int, list[tuple[str, np.ndarray]]]]) -> None:
    savemat(path, {"anno": {"imname": path.stem, "objects": objects(items)}})


def make_tree(root: Path) -> Path:
    """A tiny PASCAL_MT folder: the left half of each picture is sofa, the right half sky."""
    for folder in (
        "JPEGImages", "ImageSets/Context", "pascal-context/trainval", "semseg/VOC12", "semseg/pascal-context",
        "human_parts", "sal_distill", "normals_distill",
    ):  # fmt: skip
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Context/train.txt").write_text("\n".join(TRAIN) + "\n")
    (root / "ImageSets/Context/val.txt").write_text("\n".join(VAL))
    left = block(slice(None), slice(0, 16))
    for number, name in enumerate((*TRAIN, *VAL)):
        Image.new("RGB", SIZE[::-1], (200, 100, 50)).save(root / f"JPEGImages/{name}.jpg")
        semantic = Image.fromarray(np.where(left, 18, 0).astype(np.uint8))
        semantic.putpalette([value % 256 for value in range(768)])
        semantic.save(root / "semseg" / ("VOC12" if number == 0 else "pascal-context") / f"{name}.png")
        savemat(root / f"pascal-context/trainval/{name}.mat", {"LabelMap": np.where(left, SOFA, SKY).astype(np.uint16)})
        Image.fromarray(left * 255).save(root / f"sal_distill/{name}.png")
        Image.new("RGB", SIZE[::-1], (255, 128, 128)).save(root / f"normals_distill/{name}.png")
        write_parts(root / f"human_parts/{name}.mat", [(18, [])])
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "PASCAL_MT")


def splits(root: Path, **options: Option) -> Splits:
    return load_data(DataRecipe(name="pascal_context", options={"root": str(root), "augment": False, **options}))


def target(root: Path, name: str, index: int = 0) -> Tensor:
    return splits(root).train[index][1][name]


def test_samples_are_what_the_description_says(root: Path) -> None:
    recipe = DataRecipe(name="pascal_context", options={"root": str(root)})
    spec, data = describe_data(recipe), load_data(recipe)
    assert (len(data.train), len(data.test)) == (2, 1)  # type: ignore[arg-type]
    for split in (data.train, data.test):
        image, targets = split[0]
        assert image.shape == spec.image_shape == (3, 512, 512)
        assert targets.keys() == spec.targets.keys()
        for name, value in targets.items():
            assert value.shape[-2:] == (512, 512)
            assert value.dtype == (torch.int64 if spec.targets[name].kind == "semantic" else torch.float32)


def test_description_needs_no_files() -> None:
    spec = describe_data(DataRecipe(name="pascal_context", options={"root": "/nowhere"}))
    assert {name: target.channels for name, target in spec.targets.items()} == {
        "semantic": 21, "human_parts": 7, "saliency": 1, "normals": 3, "edges": 1,
    }  # fmt: skip


def test_palette_pictures_keep_their_labels_and_both_folders_are_read(root: Path) -> None:
    for index in range(2):
        assert target(root, "semantic", index)[256, [0, 255, 256, 511]].tolist() == [18, 18, 0, 0]


def test_normals_are_known_only_on_classes_that_nyud_has(root: Path) -> None:
    normals = target(root, "normals")
    assert len(NORMALS_LABELS) == 170
    assert SOFA in NORMALS_LABELS
    assert SKY not in NORMALS_LABELS
    assert torch.allclose(normals[:, 256, 0], torch.tensor([1.0, 0.0, 0.0]), atol=0.01)
    assert normals[:, 256, 300].tolist() == [0, 0, 0]


def test_edges_are_one_line_between_two_labels(root: Path) -> None:
    edges = target(root, "edges")[0]
    columns = edges[256].nonzero()[:, 0].tolist()
    assert columns == list(range(240, 256)), "one stored pixel, 16 after resizing"


def test_edges_lie_above_another_label_too(root: Path) -> None:
    labels = np.full(SIZE, SKY, np.uint16)
    labels[12:] = SOFA
    savemat(root / f"pascal-context/trainval/{TRAIN[0]}.mat", {"LabelMap": labels})
    rows = target(root, "edges")[0, :, 256].nonzero()[:, 0]
    assert rows.float().mean() == pytest.approx((11 + 0.5) * 512 / 24, abs=1)


def test_saliency_is_split_at_half(root: Path) -> None:
    Image.fromarray(np.where(block(slice(None), slice(0, 16)), 128, 127).astype(np.uint8)).save(
        root / f"sal_distill/{TRAIN[0]}.png"
    )
    assert target(root, "saliency")[0, 256, [0, 511]].tolist() == [1, 0]


def test_parts_of_people_are_joined_to_six(root: Path) -> None:
    write_parts(
        root / f"human_parts/{TRAIN[0]}.mat",
        [
            (18, [("head", block(slice(None), slice(None)))]),
            (PERSON, [("hair", block(slice(0, 8), slice(0, 8))), ("lhand", block(slice(8, 16), slice(0, 8)))]),
            (PERSON, [("ruleg", block(slice(16, 24), slice(0, 8)))]),
        ],
    )
    parts = target(root, "human_parts")
    assert [HUMAN_PARTS[label] for label in parts[[0, 256, 500], 0]] == ["head", "lower arm", "upper leg"]
    assert parts[0, 511] == 0


def test_all_24_parts_of_a_person_have_a_place() -> None:
    named = {part: HUMAN_PARTS[label] for part, label in HUMAN_PART_OF.items()}
    assert len(named) == 24
    assert [part for part, name in named.items() if name == "torso"] == ["torso", "neck"]
    for side in "lr":
        expected = {"uarm": "upper arm", "larm": "lower arm", "hand": "lower arm", "uleg": "upper leg"}
        expected |= {"lleg": "lower leg", "foot": "lower leg", "ear": "head", "eye": "head", "ebrow": "head"}
        assert {part: named[side + part] for part in expected} == expected


@pytest.mark.parametrize("items", [[(3, [])], [(PERSON, [])], [(3, [("head", np.ones(SIZE, np.uint8))])]])
def test_a_picture_without_parts_of_people_says_nothing_about_them(root: Path, items: list) -> None:
    write_parts(root / f"human_parts/{TRAIN[0]}.mat", items)
    assert target(root, "human_parts").unique().tolist() == [IGNORE]


def test_augmentation_is_the_same_in_every_run_and_another_in_every_epoch(root: Path) -> None:
    data = splits(root, augment=True).train
    first, again = data[0], pickle.loads(pickle.dumps(data))[0]
    assert all(torch.equal(first[1][name], again[1][name]) for name in first[1])
    data.set_epoch(1)  # type: ignore[attr-defined]
    assert not torch.equal(data[0][0], first[0])
    lengths = first[1]["normals"].norm(dim=0)
    assert bool(((lengths < 1e-3) | (lengths - 1).abs().lt(1e-3)).all())


def test_pictures_and_their_normals_are_turned_by_up_to_20_degrees(root: Path) -> None:
    data = splits(root, augment=True).train
    heights = []
    for epoch in range(6):
        data.set_epoch(epoch)  # type: ignore[attr-defined]
        normals = data[0][1]["normals"]
        heights.append(float(normals[1].abs().max()))
    assert 0.03 < max(heights) < np.sin(np.deg2rad(20.5))
    assert len(set(heights)) == len(heights)


def test_pictures_are_turned_before_they_are_stretched(root: Path) -> None:
    size = (240, 320)
    left = np.arange(size[1]) < 160
    Image.fromarray(np.broadcast_to(np.where(left, 18, 0), size).astype(np.uint8)).save(
        root / f"semseg/VOC12/{TRAIN[0]}.png"
    )
    Image.new("RGB", size[::-1], (200, 100, 50)).save(root / f"JPEGImages/{TRAIN[0]}.jpg")
    Image.new("RGB", size[::-1], (255, 128, 128)).save(root / f"normals_distill/{TRAIN[0]}.png")
    savemat(root / f"pascal-context/trainval/{TRAIN[0]}.mat", {"LabelMap": np.full(size, SOFA, np.uint16)})
    recipe = DataRecipe(name="pascal_context", options={"root": str(root)})
    data = load_data(recipe, targets=["semantic", "normals"]).train
    angles = []
    for epoch in range(4):
        data.set_epoch(epoch)  # type: ignore[attr-defined]
        targets = data[0][1]
        n_x, n_y, _ = targets["normals"][:, 256, 256].tolist()
        sofa = targets["semantic"] == 18
        sofa = sofa if n_x > 0 else ~sofa & (targets["semantic"] != IGNORE)
        rows = torch.tensor([156, 356])
        ends = torch.stack([sofa[row].nonzero().max() for row in rows])
        leaning = float(ends[0] - ends[1]) / 200  # of the edge between sofa and sky, columns a row
        angles.append(abs(n_y / n_x))
        # 4:3 pictures become square, so leaning edges stand up by that much.
        assert leaning == pytest.approx(n_y / n_x * 3 / 4, abs=0.02)
    assert max(angles) > 0.1


def test_held_out_images_leave_the_training_data(root: Path) -> None:
    data = splits(root, val_images=1)
    assert (len(data.train), len(data.val), len(data.test)) == (1, 1, 1)  # type: ignore[arg-type]
    whole = splits(root)
    assert whole.val is whole.test


def test_another_folder_is_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(DataError, match="no data set was recognised; allowed: the PASCAL_MT folder"):
        splits(tmp_path)


@pytest.mark.parametrize(
    "missing",
    [
        "ImageSets/Context/val.txt", f"JPEGImages/{TRAIN[1]}.jpg", f"semseg/VOC12/{TRAIN[0]}.png",
        f"human_parts/{VAL[0]}.mat", f"sal_distill/{TRAIN[0]}.png", f"normals_distill/{TRAIN[0]}.png",
        f"pascal-context/trainval/{TRAIN[0]}.mat",
    ],
)  # fmt: skip
def test_the_first_missing_file_is_named_with_the_layout(root: Path, missing: str) -> None:
    (root / missing).unlink()
    with pytest.raises(DataError, match=f"{Path(missing).stem}.* is missing; the folder has the PASCAL_MT layout"):
        splits(root)


def test_normals_need_the_label_maps_that_say_where_they_are_known(root: Path) -> None:
    (root / f"pascal-context/trainval/{TRAIN[1]}.mat").unlink()
    with pytest.raises(DataError, match=rf"trainval/{TRAIN[1]}\.mat is missing"):
        load_data(DataRecipe(name="pascal_context", options={"root": str(root)}), targets=["normals"])


@pytest.mark.parametrize("labels", [np.zeros((0, 0)), np.full((4, 4), -1.0)])
def test_label_maps_without_labels_are_one_line(root: Path, labels: np.ndarray) -> None:
    savemat(root / f"pascal-context/trainval/{TRAIN[0]}.mat", {"LabelMap": labels})
    with pytest.raises(DataError, match=r"found a LabelMap of shape .*; allowed: \(H, W\) with labels from 0 to 459"):
        target(root, "edges")


def test_label_maps_that_are_not_whole_are_named(root: Path) -> None:
    savemat(root / f"pascal-context/trainval/{TRAIN[0]}.mat", {"LabelMap": np.full(SIZE, 3.5)})
    with pytest.raises(DataError, match=r"\.mat: found the labels 3\.5; allowed: whole numbers"):
        target(root, "edges")


def test_a_missing_folder_is_half_unpacked(root: Path) -> None:
    for path in (root / "sal_distill").iterdir():
        path.unlink()
    (root / "sal_distill").rmdir()
    with pytest.raises(DataError, match="sal_distill.*half unpacked"):
        splits(root)


def test_labels_out_of_range_are_named(root: Path) -> None:
    Image.fromarray(np.full(SIZE, 33, np.uint8)).save(root / f"semseg/VOC12/{TRAIN[0]}.png")
    with pytest.raises(DataError, match="semantic holds label 33; allowed: 0 to 20"):
        target(root, "semantic")


def test_label_maps_out_of_range_are_named(root: Path) -> None:
    savemat(root / f"pascal-context/trainval/{TRAIN[0]}.mat", {"LabelMap": np.full(SIZE, 460, np.uint16)})
    with pytest.raises(DataError, match="labels 460; allowed: .* from 0 to 459"):
        target(root, "edges")


def test_sizes_that_differ_are_named(root: Path) -> None:
    Image.new("RGB", (9, 9), (255, 128, 128)).save(root / f"normals_distill/{TRAIN[0]}.png")
    with pytest.raises(DataError, match=r"found normals of \(9, 9\); its LabelMap asks for \(24, 32\)"):
        target(root, "normals")
    Image.new("L", (9, 9)).save(root / f"sal_distill/{TRAIN[0]}.png")
    with pytest.raises(DataError, match=r"saliency has shape \(1, 9, 9\)"):
        target(root, "saliency")


def test_broken_annotations_are_named(root: Path) -> None:
    path = root / f"human_parts/{TRAIN[0]}.mat"
    path.write_bytes(b"no MATLAB file")
    with pytest.raises(DataError, match="cannot be read as a MATLAB file"):
        target(root, "human_parts")
    savemat(path, {"anno": {"imname": "x"}})
    with pytest.raises(DataError, match="not an annotation of PASCAL-Part"):
        target(root, "human_parts")
    savemat(path, {"anno": {"imname": "x", "objects": 3}})
    with pytest.raises(DataError, match="not an annotation of PASCAL-Part"):
        target(root, "human_parts")
    cells = np.array([np.ones(2), "x"], dtype=object)
    for mask in (cells, {"a": 1}, "text"):
        write_parts(path, [(PERSON, [("head", mask)])])  # type: ignore[list-item]
        with pytest.raises(DataError, match="not an annotation of PASCAL-Part"):
            target(root, "human_parts")
    write_parts(path, [(PERSON, [("tentacle", np.ones(SIZE, np.uint8))])])
    with pytest.raises(DataError, match="found the human part tentacle; allowed: head"):
        target(root, "human_parts")
    write_parts(path, [(PERSON, [("head", np.ones((4, 4), np.uint8))])])
    with pytest.raises(DataError, match="found masks of the shapes"):
        target(root, "human_parts")


@pytest.mark.parametrize("wanted", ["semantic", "human_parts", "saliency", "normals", "edges"])
def test_every_target_can_be_had_alone(root: Path, wanted: str) -> None:
    data = load_data(DataRecipe(name="pascal_context", options={"root": str(root)}), targets=[wanted])
    assert set(data.train[0][1]) == set(data.test[0][1]) == {wanted}
