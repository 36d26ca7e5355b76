"""Shards: ours and other people's, in any number of tar files; broken, cut off and hostile ones."""

import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from gate2static.data import Splits, describe_data, index_shards, load_data, write_shards
from gate2static.data.augmented import Augmented
from gate2static.data.shards import index, writing
from gate2static.data.shards.members import LARGEST_MEMBER
from gate2static.errors import DataError, RecipeError
from gate2static.recipe import DataRecipe, load_recipe

SCENES = DataRecipe(
    name="scenes", options={"train_images": 5, "val_images": 1, "test_images": 1, "size": 16, "seed": 3}
)
DIGITS = DataRecipe(name="digits", options={"train_images": 3, "val_images": 1, "test_images": 1})
Contents = dict[str, bytes]


@pytest.fixture(scope="module")
def scenes() -> Splits:
    return load_data(SCENES)


@pytest.fixture(scope="module")
def written(scenes: Splits, tmp_path_factory: pytest.TempPathFactory) -> DataRecipe:
    """Two samples per tar file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "SHARD_BYTES", 12_000)
        return write_shards(scenes, describe_data(SCENES), tmp_path_factory.mktemp("shards"))


def picture(values: Any, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(buffer, form)
    return buffer.getvalue()


def array(values: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


def write_tar(path: Path, contents: Contents, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in contents.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            header.mtime = 1.5  # which needs a header of its own in the POSIX format
            tar.addfile(header, io.BytesIO(content))
    return path


def one_class(root: Path, contents: Contents, **options: Any) -> Splits:
    """Training images of two classes; the other splits are the same files."""
    write_tar(root / "a.tar", contents)
    given = {"size": (8, 8), "targets": {"kind": ("classification", 2)}, "train": "a.tar", "val": "a.tar"}
    return load_data(DataRecipe(name="shards", options={"root": str(root), **given, "test": "a.tar", **options}))


def assert_equal(found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]]) -> None:
    assert torch.allclose(found[0], expected[0], atol=0.51 / 255 / 0.224)  # half a byte
    assert found[1].keys() == expected[1].keys()
    for name, target in expected[1].items():
        assert found[1][name].dtype == target.dtype
        assert torch.allclose(found[1][name], target, atol=1e-4), name  # normals get length 1


def test_dense_data_comes_back_in_its_order_from_several_tar_files(scenes: Splits, written: DataRecipe) -> None:
    root = Path(str(written.options["root"]))
    assert [path.name for path in sorted((root / "train").glob("*.tar"))] == ["000000.tar", "000001.tar", "000002.tar"]
    assert describe_data(written) == describe_data(SCENES)
    splits = load_data(written)
    for name in ("train", "val", "test"):
        found, expected = getattr(splits, name), getattr(scenes, name)
        assert len(found) == len(expected)
        for sample, original in zip(found, expected, strict=True):
            assert_equal(sample, original)


def test_grey_images_with_classes_come_back(tmp_path: Path) -> None:
    digits = load_data(DIGITS)
    recipe = write_shards(digits, describe_data(DIGITS), tmp_path)
    spec = describe_data(recipe)
    assert spec == describe_data(DIGITS)
    assert_equal(load_data(recipe).train[2], digits.train[2])


def test_the_page_writes_what_a_recipe_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path("docs/data.md").read_text()
    code = page.split("```python\n", 1)[1].split("```", 1)[0]
    monkeypatch.chdir(tmp_path)
    rest = "name: x\ntasks: [{name: depth, kind: depth}]\nmodel: {name: resnet20}\n"
    options = "train_images: 1, val_images: 1, test_images: 1, size: 16, augment: true"
    Path("recipe.yaml").write_text(f"{rest}data: {{name: scenes, options: {{{options}}}}}\n")
    exec(code, {})
    Path("other.yaml").write_text(rest + Path("shards/data.yaml").read_text())
    other = load_recipe("other.yaml").data
    assert describe_data(other) == describe_data(SCENES)
    assert len(load_data(other).train) == 1  # type: ignore[arg-type]


def test_equal_data_gives_equal_bytes_for_any_number_of_workers(scenes: Splits, tmp_path: Path) -> None:
    folders = [tmp_path / str(workers) for workers in (0, 1)]
    for workers, folder in zip((0, 1), folders, strict=True):
        write_shards(scenes, describe_data(SCENES), folder, workers=workers)
    one, two = ({path.relative_to(folder): path for path in folder.rglob("*.*")} for folder in folders)
    assert one.keys() == two.keys()
    for name in one.keys() - {Path("data.yaml")}:
        assert one[name].read_bytes() == two[name].read_bytes()


def test_half_precision_rounds_maps_of_real_numbers_alone(scenes: Splits, tmp_path: Path) -> None:
    recipe = write_shards(scenes, describe_data(SCENES), tmp_path, half=True)
    _, found = load_data(recipe).train[0]
    _, expected = scenes.train[0]
    assert found["semantic"].equal(expected["semantic"])
    difference = (found["depth"] - expected["depth"]).abs().max() / expected["depth"].max()
    assert 0 < float(difference) < 5e-4


def test_samples_are_read_the_same_without_an_index_in_processes_and_after_pickling(written: DataRecipe) -> None:
    splits = load_data(written)
    expected = [image for image, _ in splits.train]
    root = Path(str(written.options["root"]))
    for file in (root / "train").glob("*.json"):
        file.unlink()
    without = load_data(written)
    assert all(a.equal(b[0]) for a, b in zip(expected, without.train, strict=True))
    # A process that is forked has this one's open files.
    for image, batch in zip(expected, DataLoader(splits.train, batch_size=1, num_workers=1), strict=True):
        assert image.equal(batch[0][0])
    assert pickle.loads(pickle.dumps(splits.train))[4][0].equal(expected[4])
    assert index_shards(root) == 5
    assert json.loads((root / "train/000000.tar.json").read_text())["size_bytes"] > 8_000


def test_shards_of_others_are_read_with_their_names(tmp_path: Path) -> None:
    image = np.zeros((4, 6, 3), dtype=np.uint8)
    contents: Contents = {"README": b"no sample", "._x/.hidden": b""}
    for number in (7, 3):
        contents |= {
            f"./part/{number}.jpg": picture(image, "JPEG"),
            f"./part/{number}.cls": f"{number}\n".encode(),
            f"./part/{number}.depth.png": picture(np.full((4, 6), 50 * number % 256)),
            f"./part/{number}.Normal.v2.png": picture(np.full((4, 6, 3), (127, 127, 255))),
            f"./part/{number}.json": b"{}",
        }
    for name in ("set-000001", "set-000000"):
        write_tar(tmp_path / f"{name}.tar", contents, format=tarfile.PAX_FORMAT)
    options = {
        "targets": {"room": ("classification", 9), "depth": ("depth",), "normals": ("normals",)},
        "members": {
            "image": ("png", "jpg"),
            "room": ("cls",),
            "depth": ("depth.png", 100),
            "normals": ("Normal.v2.png",),
        },
    }
    options |= {"root": str(tmp_path), "size": (8, 12), **dict.fromkeys(("train", "val", "test"), "set-*.tar")}
    splits = load_data(DataRecipe(name="shards", options=options), ["room", "depth", "normals"])
    rooms = [int(targets["room"]) for _, targets in splits.train]
    assert rooms == [7, 3, 7, 3]
    image_, targets = splits.train[1]
    assert image_.shape == (3, 8, 12)
    assert targets["depth"].unique().tolist() == [1.5]
    assert targets["normals"][:, 0, 0] == pytest.approx([0, 0, 1], abs=0.01)


def test_parts_of_other_targets_are_not_needed(tmp_path: Path) -> None:
    targets = {"kind": ("classification", 2), "depth": ("depth",)}
    contents = {"1.image.png": picture(np.zeros((8, 8, 3))), "1.kind.cls": b"1"}
    with pytest.raises(
        DataError, match=r"a\.tar, 1: has no depth\.png .* or depth\.npy, only image\.png, kind\.cls; say what"
    ):
        one_class(tmp_path, contents, targets=targets)
    options = {"root": str(tmp_path), "size": (8, 8), "targets": targets, "train": "a.tar", "val": "a.tar"}
    splits = load_data(DataRecipe(name="shards", options={**options, "test": "a.tar"}), ["kind"])
    assert int(splits.train[0][1]["kind"]) == 1


def test_training_images_are_augmented_on_demand(written: DataRecipe) -> None:
    options = {**written.options, "augment": True}
    train = load_data(DataRecipe(name="shards", options=options)).train
    assert isinstance(train, Augmented)
    assert train[0][0].shape == (3, 16, 16)


PICTURE = picture(np.zeros((8, 8, 3)))
NOISE = picture(np.random.default_rng(0).integers(0, 256, (64, 64, 3)))


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("1.image.png", NOISE[:6000], r"a\.tar, 1\.image\.png: cannot be read as a picture"),
        ("1.image.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "image\\.png: not a picture"),
        ("1.kind.cls", b"cat", r"1\.kind\.cls: cannot be read as a class, which is a whole number"),
        ("1.kind.cls", b"2", r"1\.kind\.cls: kind holds label 2; allowed: 0 to 1"),
        ("1.kind.npy", array(np.array([{}]), allow_pickle=True), r"kind\.npy: cannot be read as an array of numbers"),
        ("1.kind.npy", array(np.zeros(0)).replace(b"(0,)", b"(9999999999999,)"), r"cannot be read as an array"),
        ("1.kind.npy", array(np.zeros(2)), r"1\.kind\.npy: kind has shape \(2,\); its image asks for \(\)"),
    ],
    ids=["cut", "postscript", "text", "class", "pickle", "claim", "shape"],
)
def test_a_member_that_is_wrong_is_named(tmp_path: Path, name: str, content: bytes, match: str) -> None:
    contents = {"1.image.png": PICTURE, "1.kind.cls": b"1"}
    if name.endswith("npy"):
        del contents["1.kind.cls"]
    splits = one_class(tmp_path, contents | {name: content})
    with pytest.raises(DataError, match=match):
        splits.train[0]


def edited(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda tar: tar.write_bytes(change(tar.read_bytes())) and None


def forge(change: Callable[[Any], object]) -> Callable[[Path], None]:
    """Changes the index, which no longer tells the truth."""

    def edit(tar: Path) -> None:
        index.write_index(tar)
        content = json.loads(index.index_file(tar).read_text())
        change(content)
        index.index_file(tar).write_text(json.dumps(content))

    return edit


def with_long_header(content: bytes) -> bytes:
    """A header of names, which would be read at once, that claims 4 GiB."""
    header = tarfile.TarInfo("long")
    header.type = tarfile.GNUTYPE_LONGNAME
    header.size = 2**32
    return header.tobuf(tarfile.GNU_FORMAT) + content


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (edited(gzip.compress), r"a\.tar: cannot be read as a tar file without compression"),
        (edited(lambda content: b""), r"a\.tar: cannot be read as a tar file"),
        (edited(lambda content: content[:700]), r"a\.tar: cannot be read as a tar file"),
        (edited(lambda content: content[:2048]), r"a\.tar: .*broken or cut off behind 2\.kind\.cls"),
        (edited(lambda content: content[:1024] + b"x" * 512 + content[1536:]), r"cut off behind 1\.kind\.cls"),
        (edited(with_long_header), r"a\.tar: .*a header of 4,294,967,296 bytes"),
        (lambda tar: write_tar(tar, {"folder/name": b""}), r"a\.tar: has no members named KEY\.EXTENSION"),
        (forge(lambda content: content.update(size_bytes=5)), r"a\.tar: found 10240 bytes, and 5 in a\.tar\.json"),
        (forge(lambda content: content.update(members=[])), r"a\.tar\.json is not an index of a tar file: members"),
        (
            forge(lambda content: content["members"].update({"1.kind.cls": [10240, 1]})),
            r"a\.tar, 1\.kind\.cls: lies outside the tar file; write its index again",
        ),
        (
            forge(lambda content: content["members"].update({"1.kind.cls": [0, LARGEST_MEMBER + 1]})),
            r"1\.kind\.cls: found 268,435,457 bytes; allowed: up to 268,435,456",
        ),
        (lambda tar: tar.rename(tar.with_name("b.tar")), r"found no a\.tar; give the train files' pattern"),
    ],
    ids=["gzip", "empty", "cut", "end", "header", "bomb", "names", "size", "json", "place", "large", "gone"],
)
def test_a_tar_file_that_is_wrong_is_named(tmp_path: Path, change: Callable[[Path], None], match: str) -> None:
    tar = write_tar(tmp_path / "a.tar", {"1.kind.cls": b"1", "2.kind.cls": b"0"}, format=tarfile.USTAR_FORMAT)
    change(tar)
    options = {"root": str(tmp_path), "size": (8, 8), "targets": {"kind": ("classification", 2)}}
    options |= dict.fromkeys(("train", "val", "test"), "a.tar")
    with pytest.raises(DataError, match=match):
        load_data(DataRecipe(name="shards", options=options))


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("1.kind.cls"))
    with pytest.raises(DataError, match=r"a\.tar: .*1\.kind\.cls is there twice"):
        index_shards(tmp_path)


def test_a_tar_file_that_shrinks_after_it_was_indexed_is_named(tmp_path: Path) -> None:
    splits = one_class(tmp_path, {"1.image.png": PICTURE, "1.kind.cls": b"1"})
    offset, _ = index.read_index(tmp_path / "a.tar")["1.image.png"]
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[: offset + 38])
    with pytest.raises(DataError, match=r"1\.image\.png: cannot be read as a picture: the tar file ends after 38 of"):
        splits.train[0]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"targets": {}}, "at least 1 item"),
        ({"targets": {"x": ("dept",)}}, r"x: found dept as the kind; did you mean depth"),
        ({"targets": {"x": ("semantic",)}}, r"x: the kind is followed by the number of classes or by their names"),
        ({"targets": {"x": ("semantic", 0)}}, r"x: the kind is followed by the number"),
        ({"targets": {"x": ("depth", 1)}}, r"x: depth has no classes; write x: \[depth\]"),
        ({"targets": {"image": ("depth",)}}, "image is the name of the input"),
        ({"members": {"kid": ("cls",)}}, r"members: found kid; did you mean kind"),
        ({"members": {"kind": ("png",)}}, r"members: kind: allowed are extensions that end in cls, npy"),
        ({"members": {"kind": ("cls", 10)}}, r"members: kind: found 10; allowed: one number from 1 on, none for image"),
        ({"train": "/etc/*.tar"}, "pattern"),
        ({"size": (8, 2**20)}, "size"),
    ],
)
def test_options_are_checked_before_anything_is_read(options: Any, match: str) -> None:
    given = {"root": "/nowhere", "size": (8, 8), "targets": {"kind": ("classification", 2)}, **options}
    with pytest.raises(RecipeError, match=rf"data\.options: .*{match}"):
        describe_data(DataRecipe(name="shards", options=given))


def test_what_cannot_be_written_is_refused(scenes: Splits, written: DataRecipe, tmp_path: Path) -> None:
    spec = describe_data(SCENES)
    with pytest.raises(DataError, match=r"train: has shards already; give another folder"):
        write_shards(scenes, spec, str(written.options["root"]))
    augmented = Splits(train=Augmented(scenes.train, lambda sample, _: sample), val=scenes.val, test=scenes.test)
    with pytest.raises(DataError, match=r"set data\.options\.augment to false"):
        write_shards(augmented, spec, tmp_path)
    bright = [(scenes.train[0][0] + 9, scenes.train[0][1])]
    with pytest.raises(DataError, match=r"image 0: found bytes from .* allowed: 0 to 255"):
        write_shards(Splits(train=bright, val=scenes.val, test=scenes.test), spec, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"no tar file is there or below"):
        index_shards(tmp_path)
