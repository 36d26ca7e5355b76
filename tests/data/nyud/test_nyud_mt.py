"""NYUD-MT in its variants and sizes, and files that are missing, broken or ambiguous."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from gate2static.data import Splits, describe_data, load_data
from gate2static.data.nyud.nyud_mt import VARIANTS
from gate2static.errors import DataError
from gate2static.recipe import DataRecipe
from gate2static.recipe.schema import Option

NAMES = {"train": ["img_0003", "img_0001", "img_0004"], "val": ["img_0000", "img_0002"]}
Build = Callable[..., Path]


def numbers(size: tuple[int, int]) -> dict[str, np.ndarray]:
    """What one image's files hold: the left half is unknown, the right half is class 40, 2.5 m away, facing left."""
    left = np.arange(size[1])[None, :] < size[1] // 2
    left = np.broadcast_to(left, size)
    return {
        "image": np.full((*size, 3), 100, dtype=np.uint8),
        "semantic": np.where(left, 0, 40).astype(np.uint8),
        "depth": np.where(left, 0, 2.5).astype(np.float32),
        "normals": np.where(left[..., None], 0.0, np.array([-0.6, 0.0, 0.8])).astype(np.float32),
        "edges": np.broadcast_to(np.arange(size[0])[:, None] == 7, size),
    }


def write(path: Path, part: str, value: np.ndarray) -> None:
    """Writes one part as the file type asks: pictures of normals hold (n + 1) / 2, pictures of edges 0 and 255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, value.astype(np.float32))
    elif path.suffix == ".mat":
        scipy.io.savemat(path, {{"semantic": "segmentation", "depth": "depth"}[part]: value.astype(np.float64)})
    else:
        picture = {"normals": np.rint((value + 1) * 127.5), "edges": value * 255}.get(part, value)
        Image.fromarray(np.ascontiguousarray(picture).astype(np.uint8)).save(path)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Makes a tiny copy of a variant."""

    def make(variant: str, size: tuple[int, int] = (480, 640)) -> Path:
        folders = {
            "image": "images",
            "semantic": "segmentation",
            "depth": "depth",
            "normals": "normals",
            "edges": "edge",
        }
        (tmp_path / "gt_sets").mkdir()
        for split, names in NAMES.items():
            (tmp_path / "gt_sets" / f"{split}.txt").write_text("\n".join(names) + "\n")
            for name in names:
                for part, value in numbers(size).items():
                    write(tmp_path / folders[part] / f"{name}{VARIANTS[variant][part][0]}", part, value)
        return tmp_path

    return make


def load(root: Path, **options: Option) -> Splits:
    return load_data(DataRecipe(name="nyud_mt", options={"root": str(root), **options}))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(480, 640), (425, 560)])
def test_every_variant_and_size_gives_the_same_samples(build: Build, variant: str, size: tuple[int, int]) -> None:
    splits = load(build(variant, size))
    spec = describe_data(DataRecipe(name="nyud_mt", options={"root": "/nowhere"}))
    image, targets = splits.test[1]
    assert tuple(image.shape) == spec.image_shape == (3, 480, 640)
    assert set(targets) == set(spec.targets)
    left, right = slice(0, 300), slice(340, 640)
    assert targets["semantic"][:, left].unique().tolist() == [255]
    assert targets["semantic"][:, right].unique().tolist() == [39]
    assert targets["depth"][0, :, left].unique().tolist() == [0]
    assert targets["depth"][0, :, right].unique().tolist() == [2.5]
    expected = torch.tensor([-0.6, 0, 0.8])[:, None, None].expand(3, 480, 300)
    assert float((targets["normals"][:, :, right] - expected).abs().max()) < 0.06
    assert float(targets["normals"][:, :, left].abs().max()) == 0
    assert targets["edges"].unique().tolist() == [0, 1]
    assert 1 <= int(targets["edges"][0, :, 0].sum()) <= 2


def test_lists_say_which_images_are_whose(build: Build) -> None:
    splits = load(build("MTI-Net"), val_images=1)
    assert [len(data) for data in (splits.train, splits.val, splits.test)] == [2, 1, 2]  # type: ignore[arg-type]
    assert splits.val.files[0]["image"].name == "img_0003.jpg"  # type: ignore[attr-defined]


@pytest.mark.parametrize("stored", [1, 255])
def test_edges_are_found_whatever_number_stands_for_one(build: Build, stored: int) -> None:
    root = build("InvPT")
    edges = np.zeros((480, 640), dtype=np.uint8)
    edges[3, 4] = stored
    Image.fromarray(edges).save(root / "edge" / "img_0000.png")
    assert load(root).test[0][1]["edges"].nonzero().tolist() == [[0, 3, 4]]


@pytest.mark.parametrize(
    ("variant", "gone", "match"),
    [
        ("ASTMT", "segmentation/img_0001.mat", r"segmentation/img_0001\.mat is missing; .* the NYUD_MT ASTMT layout"),
        ("MTI-Net", "normals/img_0003.npy", r"normals/img_0003\.npy is missing; .* the NYUD_MT MTI-Net layout"),
        ("InvPT", "images/img_0000.png", r"images/img_0000\.png is missing; .* the NYUD_MT InvPT layout"),
        ("InvPT", "gt_sets/val.txt", r"gt_sets/val\.txt is missing; .* the NYUD_MT layout"),
    ],
)
def test_a_half_unpacked_folder_names_the_variant_and_the_file(
    build: Build, variant: str, gone: str, match: str
) -> None:
    root = build(variant)
    (root / gone).unlink()
    with pytest.raises(DataError, match=match):
        load(root)


def test_normals_follow_the_zoom_whether_or_not_depth_is_wanted(build: Build) -> None:
    recipe = DataRecipe(name="nyud_mt", options={"root": str(build("MTI-Net"))})
    alone, both = (load_data(recipe, targets=wanted).train for wanted in (["normals"], ["normals", "depth"]))
    found = set()
    for epoch in range(6):
        alone.set_epoch(epoch), both.set_epoch(epoch)  # type: ignore[attr-defined]
        normals = alone[0][1]["normals"]
        assert torch.equal(normals, both[0][1]["normals"])
        found.add(round(float(normals[2].max()), 3))
    assert found == {0.8, 0.848, 0.894}, "n_z of (-0.6, 0, 0.8) at a zoom of 1, 1.2 and 1.5"


def test_what_may_be_either_of_two_variants_names_both(build: Build) -> None:
    root = build("ASTMT")
    for folder in ("segmentation", "depth", "normals", "edge"):
        shutil.rmtree(root / folder)
    with pytest.raises(DataError, match=r"img_0003\.mat is missing; .* the NYUD_MT ASTMT or MTI-Net layout"):
        load(root)


def test_lists_without_files_are_refused_with_the_variants(tmp_path: Path) -> None:
    (tmp_path / "gt_sets").mkdir()
    for split in NAMES:
        (tmp_path / "gt_sets" / f"{split}.txt").write_text("img_0000\n")
    with pytest.raises(
        DataError, match=r"gt_sets lists 2 images, and none has a file of a type that ASTMT, MTI-Net, InvPT"
    ):
        load(tmp_path)


def test_an_image_of_another_size_is_named(build: Build) -> None:
    root = build("MTI-Net")
    for part, value in numbers((50, 60)).items():
        folder = {"image": "images", "semantic": "segmentation", "edges": "edge"}.get(part, part)
        write(root / folder / f"img_0000{VARIANTS['MTI-Net'][part][0]}", part, value)
    with pytest.raises(DataError, match=r"images/img_0000\.jpg: found an image of 50×60 .*; allowed: 480×640"):
        load(root).test[0]


def test_labels_out_of_range_are_named(build: Build) -> None:
    root = build("ASTMT")
    write(root / "segmentation" / "img_0002.mat", "semantic", np.full((480, 640), 41))
    with pytest.raises(DataError, match=r"img_0002\.mat: semantic holds label 40; allowed: 0 to 39, and 255 to ignore"):
        load(root).test[1]


def test_labels_that_are_not_whole_are_named(build: Build) -> None:
    root = build("ASTMT")
    write(root / "segmentation" / "img_0002.mat", "semantic", np.full((480, 640), 4.5))
    with pytest.raises(DataError, match=r"img_0002\.mat: found the labels 4\.5; allowed: whole numbers"):
        load(root).test[1]


def test_edges_that_are_not_finite_are_named(build: Build) -> None:
    root = build("MTI-Net")
    edges = numbers((480, 640))["edges"].astype(np.float32)
    edges[0, 0] = np.nan
    write(root / "edge" / "img_0002.npy", "edges", edges)
    with pytest.raises(DataError, match=r"img_0002\.npy: edges holds nan; allowed: 0 and 1"):
        load(root).test[1]


def test_another_folder_is_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "train" / "image").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no data set was recognised; .* are the data set nyud_mtan"):
        load_data(DataRecipe(name="nyud_mt", options={"root": str(tmp_path)}))


@pytest.mark.parametrize("stored", [(480, 640), (425, 560)])
def test_images_of_another_size_are_resized_with_their_maps(build: Build, stored: tuple[int, int]) -> None:
    image, targets = load(build("MTI-Net", stored), size=(64, 96)).test[0]
    assert image.shape == (3, 64, 96)
    assert targets["semantic"][0, [0, -1]].tolist() == [255, 39]
    assert targets["depth"][0, 0, [0, -1]].tolist() == [0, 2.5]
    assert targets["normals"][:, 0, -1].tolist() == pytest.approx([-0.6, 0.0, 0.8])
    assert describe_data(DataRecipe(name="nyud_mt", options={"root": "x", "size": (64, 96)})).image_shape == (3, 64, 96)
