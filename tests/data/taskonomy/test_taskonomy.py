"""Taskonomy in its layouts: targets, augmentation, splits, and files that are missing or broken."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gate2static.data import Splits, describe_data, load_data
from gate2static.data.contract import IGNORE
from gate2static.data.taskonomy.buildings import TINY
from gate2static.data.taskonomy.taskonomy import DOMAINS, LAYOUTS
from gate2static.errors import DataError
from gate2static.recipe import DataRecipe
from gate2static.recipe.schema import Option

SIDE = 32
SPLITS = {"allensville": "train", "hanson": "train", "darden": "val", "ihlen": "test"}
VIEWS = ((0, 0), (0, 1), (12, 3))


def picture(domain: str) -> Image.Image:
    """The left half of a view is a chair, two metres away and facing the camera; the right half is nothing known."""
    left = np.zeros((SIDE, SIDE), bool)
    left[:, : SIDE // 2] = True
    grey = {
        "segment_semantic": np.where(left, 3, 0).astype(np.uint8),
        "depth_zbuffer": np.where(left, 1024, 65535).astype(np.uint16),
        "keypoints2d": np.where(left, 164, 60000).astype(np.uint16),
        "edge_texture": np.where(left, 0, 2621).astype(np.uint16),
    }
    if domain in grey:
        return Image.fromarray(grey[domain])
    colours = np.where(left[..., None], (128, 128, 0), (128, 128, 128)) if domain == "normal" else left[..., None] * 99
    return Image.fromarray(np.broadcast_to(colours, (SIDE, SIDE, 3)).astype(np.uint8))


def path_of(root: Path, layout: str, building: str, domain: str, view: tuple[int, int] = VIEWS[0]) -> Path:
    spelling = "segmentsemantic" if (building, domain) == ("hanson", "segment_semantic") else domain
    folder = root / layout.format(domain=domain, building=building)
    return folder / f"point_{view[0]}_view_{view[1]}_domain_{spelling}.png"


def make_tree(root: Path, layout: str = LAYOUTS[0]) -> Path:
    for building in SPLITS:
        for domain in DOMAINS.values():
            for view in VIEWS:
                path = path_of(root, layout, building, domain, view)
                path.parent.mkdir(parents=True, exist_ok=True)
                picture(domain).save(path)
    # The official files end their lines as old Macs did.
    rows = [f"{building},{','.join(str(int(s == split)) for s in TINY)}" for building, split in SPLITS.items()]
    (root / "splits.csv").write_bytes("\r".join(["id,train,val,test", *rows]).encode())
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_tree(tmp_path)


def splits(root: Path, **options: Option) -> Splits:
    chosen = {"augment": False, "size": SIDE, "buildings": str(root / "splits.csv"), **options}
    return load_data(DataRecipe(name="taskonomy", options={"root": str(root), **chosen}))


def target(root: Path, name: str, index: int = 0) -> Tensor:
    return splits(root).train[index][1][name]


def replace(root: Path, domain: str, array: np.ndarray) -> None:
    Image.fromarray(array).save(path_of(root, LAYOUTS[0], "allensville", domain))


def test_samples_are_what_the_description_says(root: Path) -> None:
    options = {"root": str(root), "buildings": str(root / "splits.csv"), "size": 48}
    recipe = DataRecipe(name="taskonomy", options=options)
    spec, data = describe_data(recipe), load_data(recipe)
    for split, count in ((data.train, 6), (data.val, 3), (data.test, 3)):
        assert len(split) == count  # type: ignore[arg-type]
        image, targets = split[count - 1]
        assert image.shape == spec.image_shape == (3, 48, 48)
        assert targets.keys() == spec.targets.keys()
        for name, value in targets.items():
            channels = () if name == "semantic" else (spec.targets[name].channels,)
            assert value.shape == (*channels, 48, 48)
            assert value.dtype == (torch.int64 if name == "semantic" else torch.float32)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_samples(layout: str, tmp_path: Path) -> None:
    found = splits(make_tree(tmp_path / "one", layout))
    known = splits(make_tree(tmp_path / "two"))
    assert len(found.train) == len(known.train)  # type: ignore[arg-type]
    for index in range(6):
        (image, targets), (other, others) = found.train[index], known.train[index]
        assert torch.equal(image, other)
        assert all(torch.equal(targets[name], others[name]) for name in targets)


def test_files_are_those_of_the_view(root: Path) -> None:
    files = splits(root).train.files  # type: ignore[attr-defined]
    listed = [files[index] for index in range(len(files))]
    assert [path.exists() for sample in listed for path in sample.values()] == [True] * 36
    assert [(path.parent.name, path.name) for path in (sample["image"] for sample in listed)] == [
        (building, f"point_{point}_view_{view}_domain_rgb.png")
        for building in ("allensville", "hanson")
        for point, view in VIEWS
    ]
    assert files[-1] == listed[-1]
    with pytest.raises(IndexError):
        files[len(files)]


def test_values_are_in_the_units_of_their_kind(root: Path) -> None:
    assert target(root, "semantic")[0, [0, -1]].tolist() == [2, IGNORE]
    assert target(root, "depth")[0, 0, [0, -1]].tolist() == [2, 0]
    assert torch.allclose(target(root, "normals")[:, 0, 0], torch.tensor([0.0, 0.0, -1.0]), atol=0.01)
    assert target(root, "normals")[:, 0, -1].tolist() == [0, 0, 0]
    assert target(root, "keypoints")[0, 0, [0, -1]].tolist() == pytest.approx([0.5, 1], abs=0.01)
    assert target(root, "edges")[0, 0, [0, -1]].tolist() == pytest.approx([0, 0.5], abs=0.01)


def test_augmentation_is_the_same_in_every_process(root: Path) -> None:
    data = splits(root, augment=True).train
    data.set_epoch(3)  # type: ignore[attr-defined]
    (image, targets), (other, others) = data[1], pickle.loads(pickle.dumps(data))[1]
    assert torch.equal(image, other)
    assert all(torch.equal(targets[name], others[name]) for name in targets)


def test_a_zoom_by_half_to_one_and_a_half_divides_depth(root: Path) -> None:
    data = splits(root, augment=True).train
    depths = []
    for epoch in range(20):
        data.set_epoch(epoch)  # type: ignore[attr-defined]
        depths += data[0][1]["depth"].unique().tolist()
    found = [depth for depth in depths if depth > 0]
    assert 2 / 1.5 <= min(found) < 2 < max(found) <= 4


def test_normals_follow_the_zoom_whether_or_not_depth_is_wanted(root: Path) -> None:
    replace(root, "normal", np.full((SIDE, SIDE, 3), (204, 128, 26), np.uint8))
    recipe = DataRecipe(
        name="taskonomy", options={"root": str(root), "size": SIDE, "buildings": str(root / "splits.csv")}
    )
    alone, both = (load_data(recipe, targets=wanted).train for wanted in (["normals"], ["normals", "depth"]))
    found = set()
    for epoch in range(3):
        alone.set_epoch(epoch), both.set_epoch(epoch)  # type: ignore[attr-defined]
        normals = alone[0][1]["normals"]
        assert torch.equal(normals, both[0][1]["normals"])
        found.add(round(float(normals[2].min()), 3))
    assert len(found) == 3


def test_without_a_file_of_splits_the_tiny_partition_is_read(root: Path) -> None:
    assert [len(names) for names in TINY.values()] == [25, 5, 5]
    assert len(set(sum(TINY.values(), ()))) == 35
    with pytest.raises(DataError, match="rgb/merom is missing .* leave the building out with data.options.buildings"):
        splits(root, buildings=None)


def test_another_folder_is_not_recognised(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data set was recognised; allowed: one of the folders rgb/hanson"):
        splits(tmp_path, buildings=None)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("domain", DOMAINS.values())
def test_a_missing_domain_is_named_with_the_layout(layout: str, domain: str, tmp_path: Path) -> None:
    folder = path_of(make_tree(tmp_path, layout), layout, "darden", domain).parent
    shutil.rmtree(folder)
    with pytest.raises(
        DataError, match=f"{folder.relative_to(tmp_path)} is missing .* Taskonomy layout {layout}, half"
    ):
        splits(tmp_path)


@pytest.mark.parametrize("domain", DOMAINS.values())
def test_a_half_unpacked_building_is_named(root: Path, domain: str) -> None:
    path = path_of(root, LAYOUTS[0], "hanson", domain, VIEWS[2])
    path.unlink()
    with pytest.raises(DataError, match=f"{path.name} is missing or empty, .* 1 of 3 views of hanson are incomplete"):
        splits(root)


@pytest.mark.parametrize("empty", [False, True])
def test_a_few_views_without_labels_are_left_out(root: Path, empty: bool) -> None:
    for number in range(40):
        for domain in DOMAINS.values():
            picture(domain).save(path_of(root, LAYOUTS[0], "ihlen", domain, (100, number)))
    path = path_of(root, LAYOUTS[0], "ihlen", "segment_semantic", (100, 7))
    path.unlink()
    if empty:
        path.touch()
    test = splits(root).test
    assert len(test) == 42  # type: ignore[arg-type]
    assert path not in [test.files[index]["semantic"] for index in range(42)]  # type: ignore[attr-defined]


def test_labels_out_of_range_are_named(root: Path) -> None:
    replace(root, "segment_semantic", np.full((SIDE, SIDE), 18, np.uint8))
    with pytest.raises(DataError, match="found the label 18; allowed: 0 to 17, 0 for uncertain"):
        target(root, "semantic")


def test_sizes_that_differ_are_named(root: Path) -> None:
    replace(root, "depth_zbuffer", np.ones((9, 9), np.uint16))
    with pytest.raises(DataError, match=r"depth_zbuffer.png: depth has shape \(1, 9, 9\)"):
        target(root, "depth")


def test_depth_without_any_surface_is_all_invalid(root: Path) -> None:
    replace(root, "depth_zbuffer", np.full((SIDE, SIDE), 65535, np.uint16))
    assert not target(root, "depth").any()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("building,point\nhanson,1\n", "not a file of splits; allowed: the columns id,train,val,test"),
        ("id,train,val,test\nhanson,1,1,0\n", "each building once, with one 1"),
        ("id,train,val,test\nhanson,1,0,0\nhanson,0,1,0\n", "each building once"),
        ("id,train,val,test\nhanson,1,0,0\ndarden,0,1,0\n", "no building is in test"),
    ],
)
def test_wrong_files_of_splits_are_rejected(root: Path, text: str, match: str) -> None:
    (root / "splits.csv").write_text(text)
    with pytest.raises(DataError, match=match):
        splits(root)


def test_a_missing_file_of_splits_is_named(root: Path) -> None:
    for name in (str(root / "none.csv"), "~nobody-of-this-name/none.csv"):
        with pytest.raises(DataError, match=r"data\.options\.buildings: found .*none\.csv, which is not a file"):
            splits(root, buildings=name)


def test_every_target_can_be_had_alone(root: Path) -> None:
    recipe = DataRecipe(
        name="taskonomy", options={"root": str(root), "size": SIDE, "buildings": str(root / "splits.csv")}
    )
    for wanted in describe_data(recipe).targets:
        assert set(load_data(recipe, targets=[wanted]).train[0][1]) == {wanted}
