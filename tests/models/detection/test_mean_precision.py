"""Mean average precision and recall of boxes and of both masks, on detections that are right, wrong or missing."""

import sys
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from gate2static.errors import MissingDependencyError
from gate2static.models.detection import MeanPrecision

SCORES = ("boxes/mAP", "boxes/mAR", "visible/mAP", "visible/mAR", "amodal/mAP", "amodal/mAR")


def image(*corners: tuple[int, int, int, int]) -> dict[str, Tensor]:
    """Objects whose whole masks fill their boxes, and of which the left half is seen."""
    amodal = torch.zeros(len(corners), 64, 64, dtype=torch.bool)
    visible = torch.zeros_like(amodal)
    for number, (left, top, right, bottom) in enumerate(corners):
        amodal[number, top:bottom, left:right] = True
        visible[number, top:bottom, left : (left + right) // 2] = True
    return {
        "boxes": torch.tensor(corners, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.ones(len(corners), dtype=torch.int64),
        "visible": visible,
        "amodal": amodal,
    }


TRUTH = [image((4, 4, 24, 24), (30, 30, 60, 50)), image((10, 10, 50, 60))]


def scores(*found: Mapping[str, Tensor]) -> dict[str, float]:
    metric = MeanPrecision()
    metric.update([{**each, "scores": torch.linspace(0.9, 0.5, len(each["labels"]))} for each in found], TRUTH)
    return metric.compute()


@pytest.fixture(autouse=True)
def _needs_the_library(request: pytest.FixtureRequest) -> None:
    if "without" not in request.node.name:
        pytest.importorskip("faster_coco_eval")


def test_what_is_exactly_right_scores_one() -> None:
    assert scores(*TRUTH) == pytest.approx(dict.fromkeys(SCORES, 1.0))


def test_what_is_elsewhere_scores_nothing() -> None:
    assert scores(image((40, 2, 60, 20), (2, 40, 20, 60)), image((52, 2, 62, 8))) == dict.fromkeys(SCORES, 0.0)


def test_boxes_and_both_masks_are_judged_apart() -> None:
    wrong = [{**each, "visible": each["amodal"] & ~each["visible"]} for each in TRUTH]
    found = scores(*wrong)
    assert found["boxes/mAP"] == found["amodal/mAP"] == pytest.approx(1)
    assert found["visible/mAP"] == found["visible/mAR"] == 0


def test_what_is_not_found_costs_recall() -> None:
    found = scores(image((4, 4, 24, 24)), TRUTH[1])
    assert found["boxes/mAR"] == pytest.approx(2 / 3)
    assert found["boxes/mAP"] < 0.7


def test_the_class_counts() -> None:
    others = [{**each, "labels": each["labels"] + 1} for each in TRUTH]
    assert scores(*others)["boxes/mAP"] == 0


def test_without_the_library_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(MissingDependencyError, match=r"pip install h5py faster-coco-eval"):
        MeanPrecision()
