"""Mean average precision and recall as COCO's, of boxes, visible masks and whole objects' masks, by torchmetrics."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from gate2static.runtimes.optional import require

_JUDGED: dict[str, tuple[Literal["bbox", "segm"], str]] = {
    "boxes": ("bbox", "boxes"),
    "visible": ("segm", "masks"),
    "amodal": ("segm", "masks"),
}
"""What is judged -> torchmetrics' kind of overlap, and its name of the entry."""


class MeanPrecision:
    """mAP and mAR over IoU thresholds from 0.5 to 0.95, at most 100 detections per image, averaged over the classes.

    The paper says that its metrics are mAP and mAR; COCO's thresholds are what torchmetrics takes for these. A mask is
    judged by its own overlap, whatever box it was found in.

    Raises:
        MissingDependencyError: faster-coco-eval is not installed.
    """

    def __init__(self) -> None:
        require("faster_coco_eval")
        from torchmetrics.detection import MeanAveragePrecision

        self._metrics: dict[str, Any] = {
            name: MeanAveragePrecision(iou_type=overlap, backend="faster_coco_eval")
            for name, (overlap, _) in _JUDGED.items()
        }

    def update(self, detections: Sequence[Mapping[str, Tensor]], objects: Sequence[Mapping[str, Tensor]]) -> None:
        """Adds a batch: the detections of `DetectionHeads`, and the objects of `data.metagraspnet`, image by image."""
        for name, (_, entry) in _JUDGED.items():
            found = [{entry: each[name], "scores": each["scores"], "labels": each["labels"]} for each in detections]
            true = [{entry: each[name], "labels": each["labels"]} for each in objects]
            self._metrics[name].update(found, true)

    def compute(self) -> dict[str, float]:
        """Returns `mAP` and `mAR` of `boxes`, `visible` and `amodal`, such as `boxes/mAP`; -1 without any object."""
        scores: dict[str, float] = {}
        for name, metric in self._metrics.items():
            values = metric.compute()
            scores[f"{name}/mAP"] = float(values["map"])
            scores[f"{name}/mAR"] = float(values["mar_100"])
        return scores
