"""MetaGraspNet's synthetic scenes: what a sample holds, and files that are missing, broken or a stranger's."""

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.metagraspnet.tiny_scenes import RECTANGLES, SIZE, write_viewpoint
from gate2static.data.metagraspnet import MetaGraspNet, collate
from gate2static.data.metagraspnet.reading import read_array
from gate2static.errors import DataError, MissingDependencyError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for scene, viewpoint in ((2, 0), (10, 1), (10, 0), (3, 11)):
        write_viewpoint(tmp_path / f"scene{scene}", viewpoint)
    (tmp_path / "scene_notes").mkdir()
    return tmp_path


def test_a_sample_is_colours_and_depth_with_the_objects_that_are_seen(root: Path) -> None:
    image, objects = MetaGraspNet(root, size=SIZE)[0]
    assert image.shape == (4, *SIZE)
    assert image[3, [0, 90, 50, 30, 30], [0, 0, 50, 20, 100]].tolist() == pytest.approx([0, 1.0, 0.6, 0.7, 0.8])
    assert objects["labels"].tolist() == [1, 1, 1]
    assert objects["amodal"].shape == objects["visible"].shape == (3, *SIZE)
    assert objects["amodal"].sum((1, 2)).tolist() == [2500, 1600, 1400]
    assert objects["visible"].sum((1, 2)).tolist() == [2500 - 440, 1600, 1400]
    assert objects["occluded"].tolist() == [1, 0, 0]
    assert not bool((objects["visible"] & ~objects["amodal"]).any())


def test_boxes_hold_whole_objects_up_to_their_last_pixel(root: Path) -> None:
    boxes = MetaGraspNet(root, size=SIZE)[0][1]["boxes"]
    for box, (_, _, top, bottom, left, right) in zip(boxes.tolist(), RECTANGLES, strict=True):
        assert box == [left, top, right + 1, bottom + 1]


def test_images_masks_and_boxes_are_resized_together(root: Path) -> None:
    image, objects = MetaGraspNet(root, size=(48, 64))[0]
    assert image.shape == (4, 48, 64)
    assert objects["visible"].shape == (3, 48, 64)
    for box, (_, _, top, bottom, left, right) in zip(objects["boxes"], RECTANGLES, strict=True):
        assert torch.allclose(box, torch.tensor([left, top, right + 1, bottom + 1]) / 2, atol=0.51)


def test_objects_that_are_hidden_whole_are_left_out(tmp_path: Path) -> None:
    hidden = (*RECTANGLES, (5, 90.0, 45, 50, 45, 50))
    write_viewpoint(tmp_path / "scene0", 0, rectangles=hidden)
    assert len(MetaGraspNet(tmp_path, size=SIZE)[0][1]["boxes"]) == 3


def test_an_empty_bin_has_no_objects(tmp_path: Path) -> None:
    write_viewpoint(tmp_path / "scene0", 0, rectangles=())
    _, objects = MetaGraspNet(tmp_path, size=SIZE)[0]
    assert objects["boxes"].shape == (0, 4)
    assert objects["visible"].shape == (0, *SIZE)


def test_both_names_of_the_whole_masks_are_read(tmp_path: Path) -> None:
    write_viewpoint(tmp_path / "scene0", 0, amodal_name="occlusion_objects")
    assert MetaGraspNet(tmp_path, size=SIZE)[0][1]["amodal"].sum() == 5500


def test_scenes_are_ordered_by_their_numbers_and_can_be_chosen(root: Path) -> None:
    def names(data: MetaGraspNet) -> list[str]:
        return [f"{stem.parent.name}/{stem.name}" for stem in data.viewpoints]

    assert names(MetaGraspNet(root)) == ["scene2/0", "scene3/11", "scene10/0", "scene10/1"]
    assert names(MetaGraspNet(root, scenes=range(3, 11))) == ["scene3/11", "scene10/0", "scene10/1"]
    with pytest.raises(DataError, match="among the 2 scenes that were asked for"):
        MetaGraspNet(root, scenes=(7, 8))


def test_a_batch_keeps_the_objects_of_each_image_apart(root: Path) -> None:
    images, objects = collate([MetaGraspNet(root, size=SIZE)[index] for index in (0, 1)])
    assert images.shape == (2, 4, *SIZE)
    assert [len(each["boxes"]) for each in objects] == [3, 3]


def test_categories_are_read_from_the_scene(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    write_viewpoint(tmp_path / "scene0", 0, hdf5=True)
    data = MetaGraspNet(tmp_path, size=SIZE, classes="categories")
    assert data[0][1]["labels"].tolist() == [97, 3, 12]


def test_without_h5py_the_message_says_what_to_install(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    for stem in MetaGraspNet(root).viewpoints:
        stem.with_name(f"{stem.name}_scene.hdf5").touch()
    data = MetaGraspNet(root, size=SIZE, classes="categories")
    install = r"pip install h5py faster-coco-eval"
    with pytest.raises(MissingDependencyError, match=f"h5py cannot be imported.*{install}"):
        data[0]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"classes": "all"}, "classes is 'all'; allowed: objects, categories"),
        ({"size": (16, 64)}, "The height is 16; allowed is a whole number from 32 to 4096"),
    ],
)
def test_impossible_arguments_are_refused(root: Path, arguments: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        MetaGraspNet(root, **arguments)


def test_missing_folders_and_files_are_named(root: Path) -> None:
    with pytest.raises(DataError, match="none is not a folder; give the folder that holds scene0"):
        MetaGraspNet(root / "none")
    with pytest.raises(DataError, match=r"holds no scene\*/\*_rgb\.png; give the folder"):
        MetaGraspNet(root / "scene2")
    (root / "scene10" / "1.npz").unlink()
    with pytest.raises(DataError, match=r"scene10/1\.npz is missing; the folder has the MetaGraspNet layout"):
        MetaGraspNet(root)
    with pytest.raises(DataError, match=r"scene2/0_scene\.hdf5 is missing; the folder has the MetaGraspNet layout"):
        MetaGraspNet(root, classes="categories")


def rewritten(path: Path, **changes: Any) -> None:
    with np.load(path) as stored:
        arrays = dict(stored)
    for name, value in changes.items():
        if value is None:
            del arrays[name]
        else:
            arrays[name] = value
    np.savez_compressed(path, **arrays)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"seg_masks_single": None}, "masks of whole objects are needed, seg_masks_single or occlusion_objects, which"),
        ({"depth": None}, r"cannot be read as an archive of arrays \(\.npz\): it holds no depth"),
        ({"depth": np.zeros((4, 5), np.float32)}, r"found depth of \(4, 5\), and an image of \(96, 128\)"),
        ({"depth": np.zeros((5, *SIZE))}, r"depth has shape \(5, 96, 128\); allowed are 2 dimensions"),
        ({"instances_objects": np.full(SIZE, 4)}, "instances_objects holds values from 4 to 4; allowed: .* 0 to 3"),
        ({"instances_objects": np.full(SIZE, np.nan)}, "instances_objects holds values from nan to nan"),
        ({"instances_objects": np.full(SIZE, "a")}, "allowed are numbers"),
        ({"depth": np.full(SIZE, None)}, "allowed are numbers"),
    ],
)
def test_arrays_that_are_not_what_they_should_be_are_named(root: Path, changes: dict[str, Any], match: str) -> None:
    rewritten(root / "scene2" / "0.npz", **changes)
    with pytest.raises(DataError, match=rf"scene2/0\.npz: .*{match}"):
        MetaGraspNet(root, size=SIZE)[0]


def test_masks_in_another_order_than_the_instances_are_refused(root: Path) -> None:
    path = root / "scene2" / "0.npz"
    with np.load(path) as stored:
        masks = stored["seg_masks_single"]
    rewritten(path, seg_masks_single=masks[[2, 1, 0]])
    with pytest.raises(DataError, match="visible pixels of object 1 lie outside its own whole mask"):
        MetaGraspNet(root, size=SIZE)[0]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("name", ["0.npz", "0_rgb.png"])
def test_files_that_are_cut_off_end_in_one_line(root: Path, name: str, share: float) -> None:
    path = root / "scene2" / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=rf"scene2/{name}: ") as error:
        MetaGraspNet(root, size=SIZE)[0]
    assert "\n" not in str(error.value)


def test_an_array_that_claims_to_fill_the_memory_is_not_made(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (255, 4096, 4096)})
    with zipfile.ZipFile(tmp_path / "0.npz", "w") as archive:
        archive.writestr("masks.npy", header.getvalue())
    with pytest.raises(DataError, match="allowed are numbers, 2147483648 bytes at most"):
        read_array(tmp_path / "0.npz", "masks", dims=3)
