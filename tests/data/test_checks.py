"""The contract between data sets and tasks: samples that break it name their file."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gate2static.data import TargetSpec
from gate2static.data.checks import check_image, check_size, check_target
from gate2static.errors import DataError

PATH, SIZE = Path("some/file.png"), (2, 3)
GOOD: dict[str, tuple[int, Tensor]] = {
    "classification": (4, torch.tensor(3)),
    "attributes": (2, torch.tensor([0.0, 1.0])),
    "semantic": (4, torch.tensor([[0, 1, 2], [3, 255, 0]])),
    "depth": (1, torch.tensor([[[0.0, 1, 2], [-1, 9, 0]]])),
    "normals": (3, torch.nn.functional.normalize(torch.ones(3, 2, 3), dim=0)),
    "edges": (1, torch.tensor([[[0.0, 1, 255], [1, 1, 0]]])),
    "saliency": (1, torch.ones(1, 2, 3)),
    "mask": (1, torch.zeros(1, 2, 3)),
    "keypoints": (1, torch.full((1, 2, 3), 0.4)),
    "instance_offsets": (2, torch.tensor([-0.5, 0.25])[:, None, None].expand(2, 2, 3)),
}


def check(kind: str, target: Tensor) -> None:
    check_target("it", target, TargetSpec(kind=kind, channels=GOOD[kind][0]), PATH, SIZE)


@pytest.mark.parametrize("kind", GOOD)
def test_what_the_contract_says_passes(kind: str) -> None:
    check(kind, GOOD[kind][1])


def test_all_unknown_depth_in_one_sample_passes() -> None:
    check("depth", torch.zeros(1, 2, 3))
    check("normals", torch.zeros(3, 2, 3))
    check("semantic", torch.full((2, 3), 255))


@pytest.mark.parametrize(
    ("kind", "target", "match"),
    [
        ("classification", torch.tensor(4), "it holds label 4; allowed: 0 to 3$"),
        ("classification", torch.tensor(255), "it holds label 255; allowed: 0 to 3$"),
        (
            "semantic",
            torch.tensor([[0, 4, -1], [3, 255, 0]]),
            "it holds label -1, 4; allowed: 0 to 3, and 255 to ignore",
        ),
        ("attributes", torch.tensor([0.0, -1.0]), "it holds -1; allowed: 0 and 1$"),
        ("attributes", torch.tensor([0.0, 255.0]), "it holds 255; allowed: 0 and 1$"),
        ("edges", torch.full((1, 2, 3), 0.5), "it holds 0.5; allowed: 0 and 1, and 255 to ignore"),
        ("depth", torch.full((1, 2, 3), float("nan")), "it holds values that are not finite"),
        ("keypoints", torch.full((1, 2, 3), float("inf")), "it holds values that are not finite"),
        ("instance_offsets", torch.zeros(1, 2, 3), r"it has shape \(1, 2, 3\); its image asks for \(2, 2, 3\)"),
        ("depth", torch.ones(2, 3), r"it has shape \(2, 3\); its image asks for \(1, 2, 3\)"),
        ("semantic", torch.zeros(3, 2, dtype=torch.int64), r"it has shape \(3, 2\); its image asks for \(2, 3\)"),
    ],
)
def test_what_a_kind_does_not_allow_names_the_file(kind: str, target: Tensor, match: str) -> None:
    with pytest.raises(DataError, match=rf"^some/file\.png: {match}"):
        check(kind, target)


@pytest.mark.parametrize(
    ("image", "match"),
    [
        (torch.full((3, 2, 2), float("nan")), "found image values from nan to nan"),
        (torch.full((3, 2, 2), 200.0), "found image values from 200 to 200; allowed: 0 to 1"),
        (torch.full((3, 2, 2), -0.1), "found image values from -0.1"),
        (torch.zeros(1, 2, 2), r"found an image of shape \(1, 2, 2\)"),
        (torch.zeros(3, 0, 2), r"found an image of shape \(3, 0, 2\)"),
    ],
)
def test_an_image_that_is_none_names_the_file(image: Tensor, match: str) -> None:
    with pytest.raises(DataError, match=rf"^some/file\.png: {match}"):
        check_image(image, PATH)


def test_an_image_of_another_size_names_the_file() -> None:
    check_size(torch.zeros(3, 4, 5), PATH, (4, 5))
    with pytest.raises(DataError, match=r"some/file\.png: found an image of 4×5 \(height × width\); allowed: 5×4"):
        check_size(torch.zeros(3, 4, 5), PATH, (5, 4))
