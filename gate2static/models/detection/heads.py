"""Detection heads on a feature pyramid after UOAIS-Net (Back et al., 2022), made of torchvision's detection parts.

Three groups of heads, each of which may read features of its own:

| group | heads | losses of the paper, eq. 4 |
|---|---|---|
| `proposals` | region proposal network | rcls, rdet |
| `boxes` | class and box of the whole object | cls, det |
| `masks` | visible mask, then the whole object's, then whether it is occluded | vsb, amd, occ |

Each head of `masks` reads the regions and the features of those before it (hierarchical occlusion modelling). UOAIS-Net
adds the box head's features, which is left out here, so that the groups meet in no features but the pyramid's.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, paste_masks_in_image
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign, roi_align

from gate2static.errors import TrainingError
from gate2static.models.detection.rgbd_pyramid import LEVELS, WIDTH

GROUPS = ("proposals", "boxes", "masks")
LOSSES = ("rcls", "rdet", "cls", "det", "vsb", "amd", "occ")
"""The paper's seven losses; its baseline trains on their sum."""
ANCHORS = (16, 32, 64, 128, 256)
"""The side of the anchors of each level in pixels, as in UOAIS-Net's code; the paper gives none."""

Features = Mapping[str, Sequence[Tensor]]
"""The pyramid's maps in the order of `LEVELS`, by group."""
Detections = dict[str, Tensor]
"""What was found in one image, best first: `boxes` (N, 4), `labels` (N,), `scores` (N,), `visible` and `amodal` masks
(N, H, W) of bool, and `occluded` (N,), the probability that a part of the object is hidden."""


class DetectionHeads(nn.Module):
    """Finds objects in feature pyramids: losses in training, detections in evaluation.

    Everything here depends on what is in an image, so it runs in torch and is part of no static network.

    Args:
        classes: The number of classes, background aside; UOAIS-Net has one.
        channels: The channels of the pyramid's maps.
        anchors: The side of the anchors of each level in pixels.
        width: The features of the box head's two linear layers.
        mask_layers: The convolutions of each mask head.
        proposals: The regions per image that heads look at.
    """

    def __init__(
        self,
        classes: int = 1,
        *,
        channels: int = WIDTH,
        anchors: Sequence[int] = ANCHORS,
        width: int = 1024,
        mask_layers: int = 4,
        proposals: int = 1000,
    ) -> None:
        super().__init__()
        generator = AnchorGenerator(tuple((side,) for side in anchors), ((0.5, 1.0, 2.0),) * len(anchors))
        self.proposals = RegionProposalNetwork(
            generator,
            RPNHead(channels, generator.num_anchors_per_location()[0]),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 2 * proposals, "testing": proposals},
            post_nms_top_n={"training": proposals, "testing": proposals},
            nms_thresh=0.7,
        )
        # p6 proposes alone: regions are read from the other levels, by their size.
        levels = list(LEVELS[:-1])
        self.boxes = RoIHeads(
            MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=2),
            TwoMLPHead(channels * 7**2, width),
            FastRCNNPredictor(width, classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=512,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=100,
        )
        self.mask_regions = MultiScaleRoIAlign(levels, output_size=14, sampling_ratio=2)
        self.masks = MaskHeads(channels, mask_layers)

    def forward(
        self, features: Features, size: tuple[int, int], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """Computes the `LOSSES` in training, and the detections of each image in evaluation.

        Args:
            features: The pyramid's maps by group, as a gated or static network with `GROUPS` as tasks returns them. A
                network without gates gives each group the same maps.
            size: The images' height and width.
            targets: In training, the objects of each image, as `data.metagraspnet` gives them.

        Raises:
            TrainingError: There are no targets in training.
        """
        finest = features["proposals"][0]
        count = len(finest)
        # The anchors' generator looks at the images' shape and type alone.
        images = ImageList(finest.new_zeros(1).expand(count, 1, *size), [size] * count)
        if self.training:
            if targets is None:
                raise TrainingError("targets is None; allowed in training are the objects of each image.")
            return self._losses(features, images, [dict(objects) for objects in targets])
        regions, _ = self.proposals(images, _by_level(features["proposals"]))
        return self._detections(features, images, regions)

    def _losses(self, features: Features, images: ImageList, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        regions, of_proposals = self.proposals(images, _by_level(features["proposals"]), targets)
        regions, matched, labels, shifts = self.boxes.select_training_samples(regions, targets)
        logits, boxes = self._classify(features["boxes"], regions, images)
        cls, det = fastrcnn_loss(logits, boxes, labels, shifts)
        # Masks are learned on regions that hold an object.
        objects = [label > 0 for label in labels]
        held = [region[found] for region, found in zip(regions, objects, strict=True)]
        owners = [match[found] for match, found in zip(matched, objects, strict=True)]
        visible, amodal, occluded = self._mask_logits(features["masks"], held, images)
        return {
            "rcls": of_proposals["loss_objectness"],
            "rdet": of_proposals["loss_rpn_box_reg"],
            "cls": cls,
            "det": det,
            "vsb": _mask_loss(visible, [objects["visible"] for objects in targets], held, owners),
            "amd": _mask_loss(amodal, [objects["amodal"] for objects in targets], held, owners),
            "occ": _occlusion_loss(occluded, [objects["occluded"] for objects in targets], owners),
        }

    def _detections(self, features: Features, images: ImageList, regions: list[Tensor]) -> list[Detections]:
        logits, shifts = self._classify(features["boxes"], regions, images)
        boxes, scores, labels = self.boxes.postprocess_detections(logits, shifts, regions, images.image_sizes)
        visible, amodal, occluded = self._mask_logits(features["masks"], boxes, images)
        counts = [len(box) for box in boxes]
        parts = [values.sigmoid().split(counts) for values in (visible, amodal, occluded)]
        detections: list[Detections] = []
        for index, size in enumerate(images.image_sizes):
            seen, whole, hidden = (part[index] for part in parts)
            detections.append(
                {
                    "boxes": boxes[index],
                    "labels": labels[index],
                    "scores": scores[index],
                    "visible": paste_masks_in_image(seen, boxes[index], size)[:, 0] > 0.5,
                    "amodal": paste_masks_in_image(whole, boxes[index], size)[:, 0] > 0.5,
                    "occluded": hidden,
                }
            )
        return detections

    def _classify(self, maps: Sequence[Tensor], regions: list[Tensor], images: ImageList) -> tuple[Tensor, Tensor]:
        """Returns the logits (regions, classes + 1) and the boxes' shifts (regions, 4 (classes + 1))."""
        cut = self.boxes.box_roi_pool(_by_level(maps), regions, images.image_sizes)
        logits, shifts = self.boxes.box_predictor(self.boxes.box_head(cut))
        return logits, shifts

    def _mask_logits(
        self, maps: Sequence[Tensor], regions: list[Tensor], images: ImageList
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the logits of visible and whole masks, (regions, 1, 28, 28), and of occlusion, (regions,)."""
        visible, amodal, occluded = self.masks(self.mask_regions(_by_level(maps), regions, images.image_sizes))
        return visible, amodal, occluded


class MaskHeads(nn.Module):
    """The visible mask, the whole object's mask and occlusion, each of which reads the features of those before.

    Args:
        channels: The channels of a region.
        layers: The convolutions of each head.
    """

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()

        def convolutions() -> MaskRCNNHeads:
            return MaskRCNNHeads(channels, [channels] * layers, dilation=1)

        def fusion(inputs: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(inputs * channels, channels, 1), nn.ReLU())

        self.visible = convolutions()
        self.visible_mask = MaskRCNNPredictor(channels, channels, 1)
        self.amodal = nn.Sequential(fusion(2), convolutions())
        self.amodal_mask = MaskRCNNPredictor(channels, channels, 1)
        self.occlusion = nn.Sequential(fusion(3), convolutions())
        self.occluded = nn.Linear(channels, 1)

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps regions (R, C, 14, 14) to masks (R, 1, 28, 28) twice, and to occlusion (R,), all as logits."""
        visible = self.visible(regions)
        amodal = self.amodal(torch.cat([regions, visible], dim=1))
        hidden = self.occlusion(torch.cat([regions, visible, amodal], dim=1))
        return self.visible_mask(visible), self.amodal_mask(amodal), self.occluded(hidden.mean(dim=(2, 3)))[:, 0]


def _by_level(maps: Sequence[Tensor]) -> dict[str, Tensor]:
    return dict(zip(LEVELS, maps, strict=True))


def _mask_loss(logits: Tensor, masks: list[Tensor], regions: list[Tensor], owners: list[Tensor]) -> Tensor:
    """Returns the mean binary cross-entropy of masks (R, 1, S, S) in their regions; 0 without a region.

    Args:
        logits: The masks of all images' regions.
        masks: By image, the masks (N, H, W) of its objects.
        regions: By image, the regions' boxes (R_i, 4).
        owners: By image, the object (R_i,) that each region holds.
    """
    if not len(logits):
        return logits.sum()
    cut: list[Tensor] = []
    for mask, region, owner in zip(masks, regions, owners, strict=True):
        boxes = torch.cat([owner[:, None].to(region), region], dim=1)
        cut.append(roi_align(mask[:, None].to(region), boxes, logits.shape[-2:]))
    return F.binary_cross_entropy_with_logits(logits, torch.cat(cut).to(logits))


def _occlusion_loss(logits: Tensor, occluded: list[Tensor], owners: list[Tensor]) -> Tensor:
    if not len(logits):
        return logits.sum()
    truth = torch.cat([each[owner] for each, owner in zip(occluded, owners, strict=True)])
    return F.binary_cross_entropy_with_logits(logits, truth.to(logits))
