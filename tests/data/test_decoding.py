"""Readers of pictures, arrays and Matlab files, hostile and broken ones included."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from gate2static.data.decoding import (
    read_image,
    read_label_image,
    read_mat,
    read_mat_maps,
    read_npy,
    read_npy_maps,
    unit_normals,
    valid_depth,
    whole_labels,
)
from gate2static.data.pascal.parts import read_human_parts
from gate2static.errors import DataError

PATH = Path("some/file.npy")


def test_pictures_of_every_mode_become_rgb(tmp_path: Path) -> None:
    for mode in ("RGB", "L", "P", "RGBA", "1"):
        path = tmp_path / f"{mode}.png"
        Image.new(mode, (5, 4), 1).save(path)
        image = read_image(path)
        assert image.shape == (3, 4, 5)
        assert image.dtype == torch.float32
        assert 0 <= float(image.min()) <= float(image.max()) <= 1


@pytest.mark.parametrize(("mode", "top"), [("L", 200), ("P", 39), ("I;16", 40_000)])
def test_label_pictures_keep_their_numbers(tmp_path: Path, mode: str, top: int) -> None:
    numbers = np.array([[0, 1], [2, top]], dtype=np.uint16 if mode == "I;16" else np.uint8)
    picture = Image.fromarray(numbers)
    if mode == "P":
        picture = Image.frombytes("P", (2, 2), numbers.tobytes())
        picture.putpalette([value for index in range(256) for value in (index * 7 % 256, 3, 5)])
    picture.save(tmp_path / "label.png")
    assert read_label_image(tmp_path / "label.png").tolist() == [[0, 1], [2, top]]


def test_labels_saved_in_colours_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4)).save(tmp_path / "label.png")
    with pytest.raises(DataError, match=r"label\.png: found a picture of mode RGB; allowed: one number per pixel"):
        read_label_image(tmp_path / "label.png")


def test_label_pictures_of_fractions_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 1.5, np.float32)).save(tmp_path / "label.tiff")
    with pytest.raises(DataError, match=r"label\.tiff: found the labels 1\.5; allowed: whole numbers"):
        read_label_image(tmp_path / "label.tiff")


def test_broken_pictures_are_named(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    for name, content, match in (
        ("empty.png", b"", "not a picture"),
        ("text.png", b"<html>", "not a picture"),
        ("cut.png", whole[: len(whole) // 2], "cannot be read as a picture"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: {match}"):
            read_image(tmp_path / name)
    with pytest.raises(DataError, match=r"gone\.png: no such file"):
        read_image(tmp_path / "gone.png")


def test_a_picture_too_large_to_be_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("L", (20, 20)).save(tmp_path / "bomb.png")
    with pytest.raises(DataError, match=r"bomb\.png: cannot be read as a picture: Image size \(400 pixels\)"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("dtype", ["float16", ">f8", "uint16", "int8", "bool"])
def test_arrays_of_every_number_type_are_read(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", np.array([[0, 1], [1, 1]]).astype(dtype))
    found = read_npy(tmp_path / "a.npy")
    assert found.dtype == (torch.float32 if "f" in dtype else torch.int64)
    assert found.tolist() == [[0, 1], [1, 1]]


def test_pickled_arrays_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"a\.npy: cannot be read as an array of numbers \(\.npy\)"):
        read_npy(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.array(["text"]))
    with pytest.raises(DataError, match=r"b\.npy: found <U4; allowed: an array of numbers"):
        read_npy(tmp_path / "b.npy")


def test_cut_off_arrays_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((50, 50)))
    content = (tmp_path / "a.npy").read_bytes()
    for length in (0, 5, 90, 5000):
        (tmp_path / "cut.npy").write_bytes(content[:length])
        with pytest.raises(DataError, match=r"cut\.npy: cannot be read as an array of numbers"):
            read_npy(tmp_path / "cut.npy")


def test_a_variable_of_a_matlab_file_is_read_by_name(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"depth": np.array([[1.5, 2.0]]), "name": "x"})
    assert read_mat(tmp_path / "a.mat", "depth").tolist() == [[1.5, 2.0]]
    assert read_mat_maps(tmp_path / "a.mat", "depth").shape == (1, 1, 2)
    with pytest.raises(DataError, match=r"a\.mat: found the variables depth, name; labels is needed"):
        read_mat(tmp_path / "a.mat", "labels")
    with pytest.raises(DataError, match=r"a\.mat: found <U1; allowed: an array of numbers"):
        read_mat(tmp_path / "a.mat", "name")
    (tmp_path / "b.mat").write_bytes(b"MATLAB 7.3 or so")
    with pytest.raises(DataError, match=r"b\.mat: cannot be read as a MATLAB file up to version 7"):
        read_mat(tmp_path / "b.mat", "depth")


def test_maps_get_their_channels_first(tmp_path: Path) -> None:
    for shape, expected in (((4, 5), (1, 4, 5)), ((4, 5, 3), (3, 4, 5))):
        np.save(tmp_path / "a.npy", np.zeros(shape))
        assert read_npy_maps(tmp_path / "a.npy").shape == expected
    for wrong in ((5,), (0, 5)):
        np.save(tmp_path / "a.npy", np.zeros(wrong))
        with pytest.raises(
            DataError, match=r"a\.npy: found an array of shape \(.*5,?\); allowed: \(H, W\) or \(H, W, C"
        ):
            read_npy_maps(tmp_path / "a.npy")


def test_depth_that_is_not_finite_is_unknown() -> None:
    found = valid_depth(torch.tensor([1.5, float("nan"), float("inf"), -float("inf"), 0]))
    assert found.tolist() == [1.5, 0, 0, 0, 0]


def test_normals_are_brought_to_length_one_and_rounded_zeros_back_to_zero() -> None:
    stored = torch.tensor([[0.0, 0.54, 0.004, float("nan")], [0.0, 0.0, -0.004, 0.0], [1.2, 0.72, 0.004, 0.0]])[:, None]
    found = unit_normals(PATH, stored)[:, 0].T
    assert torch.allclose(found, torch.tensor([[0, 0, 1], [0.6, 0, 0.8], [0, 0, 0], [0, 0, 0]]))


@pytest.mark.parametrize("length", [0.5, 1.3])
def test_normals_may_be_far_from_unit_length_only_here_and_there(length: float) -> None:
    vectors = torch.zeros(3, 10, 20)
    vectors[2, :, 10:] = 1  # what is unknown counts for nothing
    vectors[2, :2, 10:] = length
    found = unit_normals(PATH, vectors)[2]
    assert found[2:, 10:].unique().tolist() == [1]
    assert found[:2, 10:].unique().tolist() == [1 if length < 1 else 0]  # only shorter ones come from resizing
    vectors[2, 2, 10] = length
    match = rf"^some/file\.npy: found 21% of its normals far from unit length, .* of {length}; allowed: unit.* 255"
    with pytest.raises(DataError, match=match):
        unit_normals(PATH, vectors)


@pytest.mark.parametrize("encode", [lambda n: (n + 1) / 2, lambda n: (n + 1) * 127.5, lambda n: n * 3])
def test_normals_in_another_encoding_are_refused(encode: Callable[[torch.Tensor], torch.Tensor]) -> None:
    normals = torch.nn.functional.normalize(torch.randn(3, 20, 20, generator=torch.Generator().manual_seed(0)), dim=0)
    with pytest.raises(DataError, match=r"found \d+% of its normals far from unit length, with a median length of"):
        unit_normals(PATH, encode(normals))


def test_normals_of_other_than_three_numbers_are_refused() -> None:
    with pytest.raises(DataError, match=r"file\.npy: found normals of 1 numbers per pixel; allowed: 3"):
        unit_normals(PATH, torch.zeros(1, 4, 4))


def test_whole_labels_are_integers_however_they_are_stored() -> None:
    for stored in (torch.tensor([[-1.0, 12.0]]), torch.tensor([[-1, 12]])):
        found = whole_labels(PATH, stored)
        assert found.dtype == torch.int64
        assert found.tolist() == [[-1, 12]]


def test_labels_that_are_not_whole_are_refused_with_what_was_found() -> None:
    stored = torch.tensor([[1.0, 2.5, 2.5], [float("nan"), float("inf"), -1e19]])
    with pytest.raises(DataError, match=r"file\.npy: found the labels 2\.5, nan, inf, -1e\+19; allowed: whole numbers"):
        whole_labels(PATH, stored)


@pytest.mark.parametrize("read", [lambda path: read_mat(path, "x"), read_human_parts])
def test_a_missing_matlab_file_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(DataError, match=r"none\.mat: no such file; unpack the data set again"):
        read(tmp_path / "none.mat")
