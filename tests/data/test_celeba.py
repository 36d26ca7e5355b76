"""CelebA in its usual layouts, with groups of attributes, and files that are missing or broken."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from gate2static.data import Splits, describe_data, load_data
from gate2static.data.augmented import Augmented
from gate2static.data.celeba import ATTRIBUTES
from gate2static.errors import DataError, RecipeError
from gate2static.recipe import DataRecipe
from gate2static.recipe.schema import Option

PARTITION = {"000001.jpg": 0, "000002.jpg": 0, "000003.jpg": 1, "000004.jpg": 2, "000005.jpg": 0}
PRESENT = {"000001.jpg": {"Young"}, "000002.jpg": {"Male", "Wearing_Hat"}, "000004.jpg": {"Young", "Wearing_Necktie"}}
"""Attributes that each face has."""
LAYOUTS = {
    "flat": ("img_align_celeba", "", ""),
    "authors": ("Img/img_align_celeba", "Anno", "Eval"),
    "torchvision": ("celeba/img_align_celeba", "celeba", "celeba"),
    "kaggle": ("img_align_celeba/img_align_celeba", "", ""),
}
Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Makes a copy with five faces; the brightness of face n is 40·n."""

    def make(layout: str = "flat", *, count_line: bool = True) -> Path:
        images, annotations, evaluation = (tmp_path / folder for folder in LAYOUTS[layout])
        for folder in (images, annotations, evaluation):
            folder.mkdir(parents=True, exist_ok=True)
        for index, name in enumerate(PARTITION, start=1):
            Image.new("L", (178, 218), 40 * index).convert("RGB").save(images / name)
        rows = {name: [1 if a in PRESENT.get(name, ()) else -1 for a in ATTRIBUTES] for name in PARTITION}
        if layout == "kaggle":
            lines = [
                ",".join(["image_id", *ATTRIBUTES]),
                *(",".join([name, *map(str, row)]) for name, row in rows.items()),
            ]
            (annotations / "list_attr_celeba.csv").write_text("\n".join(lines) + "\n")
            lines = ["image_id,partition", *(f"{name},{part}" for name, part in PARTITION.items())]
            (evaluation / "list_eval_partition.csv").write_text("\n".join(lines) + "\n")
        else:
            lines = [str(len(rows))] * count_line + [" ".join(ATTRIBUTES) + " "]
            lines += [f"{name} " + " ".join(f"{value:2d}" for value in row) for name, row in rows.items()]
            (annotations / "list_attr_celeba.txt").write_text("\r\n".join(lines) + "\r\n")
            lines = [f"{name} {part}" for name, part in PARTITION.items()]
            (evaluation / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
        return tmp_path

    return make


def load(root: Path, **options: Option) -> Splits:
    return load_data(DataRecipe(name="celeba", options={"root": str(root), **options}))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count_line", [True, False])
def test_every_usual_copy_gives_the_same_samples(build: Build, layout: str, count_line: bool) -> None:
    splits = load(build(layout, count_line=count_line))
    spec = describe_data(DataRecipe(name="celeba", options={"root": "/nowhere"}))
    assert [len(data) for data in (splits.train, splits.val, splits.test)] == [3, 1, 1]  # type: ignore[arg-type]
    image, targets = splits.train[1]
    assert tuple(image.shape) == spec.image_shape == (3, 32, 32)
    assert {name: target.channels for name, target in spec.targets.items()} == {"age": 1, "gender": 1, "clothes": 4}
    assert spec.targets["clothes"].classes[1] == "Wearing_Hat"
    assert {name: target.tolist() for name, target in targets.items()} == {
        "age": [0],
        "gender": [1],
        "clothes": [0, 1, 0, 0],
    }
    assert targets["age"].dtype == torch.float32
    assert splits.test[0][1]["clothes"].tolist() == [0, 0, 0, 1]
    brightness = [float(splits.train[index][0].mean()) for index in range(3)]
    assert brightness == sorted(brightness), "images and rows of the table do not belong together"


def test_groups_of_attributes_are_the_recipes(build: Build) -> None:
    options: dict[str, Option] = {"groups": {"face": ("Male", "Young"), "hat": ("Wearing_Hat",)}, "image_size": 16}
    spec = describe_data(DataRecipe(name="celeba", options={"root": "", **options}))
    assert {name: target.classes for name, target in spec.targets.items()} == options["groups"]
    image, targets = load(build(), **options).train[1]
    assert image.shape == (3, 16, 16)
    assert (targets["face"].tolist(), targets["hat"].tolist()) == ([1, 0], [1])


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        ({"age": ("Yong",)}, r"age: CelebA has no attribute Yong; did you mean Young\?"),
        ({"age": ("Young", "Young")}, "age names an attribute twice"),
        ({"age": ()}, "at least 1 item"),
        ({}, "at least 1 item"),
        ("Young", "input should be an object"),
    ],
)
def test_groups_that_celeba_does_not_have_are_refused(groups: Option, match: str) -> None:
    with pytest.raises(RecipeError, match=rf"data\.options: .*{match}"):
        describe_data(DataRecipe(name="celeba", options={"root": "", "groups": groups}))


def test_images_are_augmented_only_on_demand(build: Build) -> None:
    root = build()
    assert not isinstance(load(root).train, Augmented)
    train = load(root, augment=True).train
    assert isinstance(train, Augmented)
    assert train[1][1]["gender"].tolist() == [1]


@pytest.mark.parametrize(
    ("gone", "match"),
    [
        ("list_attr_celeba.txt", r"no list_attr_celeba\.txt or list_attr_celeba\.csv in it, in Anno or in celeba"),
        ("list_eval_partition.txt", r"no list_eval_partition\.txt or .* the CelebA layout has it there"),
        ("img_align_celeba/000004.jpg", r"img_align_celeba/000004\.jpg is missing; the folder has the CelebA layout"),
    ],
)
def test_what_is_missing_is_named(build: Build, gone: str, match: str) -> None:
    root = build()
    (root / gone).unlink()
    with pytest.raises(DataError, match=match):
        load(root)


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


@pytest.mark.parametrize(
    ("file", "change", "match"),
    [
        ("attr_celeba", lambda lines: lines[:-1], "txt: announces 5 images and has 4; unpack it again"),
        (
            "attr_celeba",
            lambda lines: [lines[1], *lines[3:]],
            r"txt: no line for 000001\.jpg, which list_eval_partition\.txt",
        ),
        ("attr_celeba", lambda lines: lines[2:], "txt, line 1: expected the names of the attributes, with Young among"),
        (
            "attr_celeba",
            lambda lines: [*lines[:3], lines[3][:50], *lines[4:]],
            r"txt, line 4: found '000002\.jpg .*40 times 1 or -1",
        ),
        (
            "attr_celeba",
            lambda lines: [line.replace(" 1", " 7") for line in lines],
            r"txt, line 3: found .*40 times 1 or -1",
        ),
        ("attr_celeba", lambda lines: lines[:1], "txt, line 2: expected the names"),
        (
            "eval_partition",
            lambda lines: [*lines[:1], "000002.jpg 3"],
            r"txt, line 2: found '000002\.jpg 3'; allowed: .* 0, 1 or 2",
        ),
        ("eval_partition", lambda lines: lines[:2], "txt: no image is marked as val data"),
        ("eval_partition", lambda lines: [], "txt: empty"),
    ],
)
def test_broken_tables_name_the_line(
    build: Build, file: str, change: Callable[[list[str]], list[str]], match: str
) -> None:
    root = build()
    edit(root / f"list_{file}.txt", change)
    with pytest.raises(DataError, match=rf"list_{file}\.{match}"):
        load(root)


def test_images_that_are_not_aligned_are_named(build: Build) -> None:
    root = build()
    Image.new("RGB", (300, 400)).save(root / "img_align_celeba" / "000002.jpg")
    with pytest.raises(DataError, match=r"000002\.jpg: found an image of 400×300 \(height × width\); allowed: 218×178"):
        load(root).train[1]
