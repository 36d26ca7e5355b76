"""Maps of what is in the foreground: edges, saliency and plain masks. Outputs and targets (N, 1, H, W).

Targets are 0, 1, or 255 where they are to be ignored. Edges and salient objects fill little of an image, so their
losses weigh pixels of the foreground by w and others by 1 - w, as in Vandenhende et al. (2020), which appendix A of the
paper follows: w = 0.95 for edges, and a batch's share of background for saliency.
"""

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from gate2static.data.contract import IGNORE
from gate2static.tasks.kind import Kind, mean_over

if TYPE_CHECKING:
    from torchmetrics import Metric

EDGE_WEIGHT = 0.95


def _pixel_losses(logits: Tensor, target: Tensor, weight: Tensor | float) -> Tensor:
    """Binary cross-entropy of every pixel, weighted; meaningless where the target is to be ignored."""
    weights = target * weight + (1 - target) * (1 - weight)
    return weights * F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def _mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    return mean_over(target != IGNORE, F.binary_cross_entropy_with_logits(logits, target, reduction="none"))


def _edge_loss(logits: Tensor, target: Tensor) -> Tensor:
    return mean_over(target != IGNORE, _pixel_losses(logits, target, EDGE_WEIGHT))


def _saliency_loss(logits: Tensor, target: Tensor) -> Tensor:
    valid = target != IGNORE
    return mean_over(valid, _pixel_losses(logits, target, 1 - mean_over(valid, target)))


def _prepare_mask(logits: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    # Decided here: torchmetrics takes logits that all lie between 0 and 1 for probabilities and cuts them at 0.5.
    valid = target != IGNORE
    return (logits > 0)[valid].long(), target[valid].long()


def _prepare_edges(logits: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    return (_pixel_losses(logits, target, EDGE_WEIGHT)[target != IGNORE],)


def _prepare_saliency(logits: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    images = (target != IGNORE).flatten(1).any(dim=1)
    return logits.sigmoid()[images], target[images]


def _mask_metrics(channels: int) -> "dict[str, Metric]":
    from torchmetrics.classification import BinaryJaccardIndex

    return {"IoU": BinaryJaccardIndex(validate_args=False)}


def _edge_metrics(channels: int) -> "dict[str, Metric]":
    from gate2static.tasks.measures import MeanOf

    return {"loss": MeanOf(lambda losses: losses)}


def _saliency_metrics(channels: int) -> "dict[str, Metric]":
    from gate2static.tasks.measures import SaliencyF, SaliencyIoU

    return {"mIoU": SaliencyIoU(), "maxF": SaliencyF()}


MASK = Kind(
    metric_name="IoU",
    higher_is_better=True,
    loss=_mask_loss,
    prepare=_prepare_mask,
    metrics=_mask_metrics,
    dense=True,
)
EDGES = Kind(
    metric_name="loss",
    higher_is_better=False,
    loss=_edge_loss,
    prepare=_prepare_edges,
    metrics=_edge_metrics,
    dense=True,
)
SALIENCY = Kind(
    metric_name="mIoU",
    higher_is_better=True,
    loss=_saliency_loss,
    prepare=_prepare_saliency,
    metrics=_saliency_metrics,
    dense=True,
)
