"""Two real handwritten digits in one image, as in Multi-MNIST, from scikit-learn's bundled 1,797 scans.

An image holds a left and a right digit that overlap; where both have ink, the darker one wins. The targets `left` and
`right` are the two digits, and `mask` has the pixels of the left digit. The first two tasks need features that do not
depend on the position of the ink; the third needs every edge. In the overlap, the tasks compete for a narrow network's
channels, because the mask must tell the left digit's ink from the right digit's.

The scans are split before they are combined, so no scan is in two splits.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from gate2static.data.contract import SIGNED_GREY, DataSpec, Splits, TargetSpec
from gate2static.data.pairs.pairs import PairOptions, Pairs, place
from gate2static.runtimes.optional import require

SIDE = 32
INK_MAX = 16.0
SHARES = {"train": 0.6, "val": 0.15, "test": 0.25}
"""The share of the scans in each split."""


class DigitsOptions(PairOptions):
    """The options of `digits`: the number of images, the size of a digit, and the seed."""

    digit_size: Annotated[int, Field(ge=8, le=SIDE)] = 22
    """The height and width of one digit in pixels; two digits overlap if it is more than half of 32."""


def describe(options: DigitsOptions) -> DataSpec:
    """Describes images of one channel and 32×32 pixels, with two digits to classify and one mask."""
    digit = TargetSpec(kind="classification", channels=10, classes=tuple("0123456789"))
    return DataSpec(
        image_shape=(1, SIDE, SIDE),
        pixels=SIGNED_GREY,
        targets={"left": digit, "right": digit, "mask": TargetSpec(kind="mask", channels=1)},
    )


def load(options: DigitsOptions, spec: DataSpec) -> Splits:
    """Splits the scans and builds the images of every split; equal options give equal bytes."""
    bunch = require("sklearn.datasets").load_digits()
    scans = torch.from_numpy(bunch.images).float().div(INK_MAX)
    labels = torch.from_numpy(bunch.target).long()
    generator = torch.Generator().manual_seed(options.seed)
    order = torch.randperm(len(scans), generator=generator)
    train_end = round(SHARES["train"] * len(order))
    val_end = round((SHARES["train"] + SHARES["val"]) * len(order))
    parts = {"train": order[:train_end], "val": order[train_end:val_end], "test": order[val_end:]}
    size = options.digit_size
    ink = F.interpolate(scans[:, None], size=(size, size), mode="bilinear", align_corners=False).clamp(0, 1)[:, 0]
    counts = {"train": options.train_images, "val": options.val_images, "test": options.test_images}
    splits = {name: _compose(ink, labels, parts[name], counts[name], generator) for name in SHARES}
    return Splits(**{name: pairs.with_targets(spec) for name, pairs in splits.items()})


def _compose(ink: Tensor, labels: Tensor, scans: Tensor, count: int, generator: torch.Generator) -> Pairs:
    """Builds images of random pairs of scans at random heights, with the left digit near the left edge.

    Args:
        ink: All scans at their final size, (scans, size, size) in [0, 1].
        labels: The digit of every scan.
        scans: The indices of the split's scans.
        count: The number of images.
        generator: The source of randomness.
    """
    slack = SIDE - ink.shape[-1]
    sources = scans[torch.randint(len(scans), (count, 2), generator=generator)]
    rows = torch.randint(slack + 1, (count, 2), generator=generator)
    # Each digit keeps to its own third of the free columns, so that "left" is never ambiguous.
    jitter = torch.randint(slack // 3 + 1, (count, 2), generator=generator)
    columns = torch.stack([jitter[:, 0], slack - jitter[:, 1]], dim=1)
    layers = place(ink, sources, rows, columns, SIDE)  # (images, [left, right], rows, columns)
    images = layers.amax(dim=1, keepdim=True) * 2 - 1  # (images, 1, 32, 32) in [-1, 1]
    targets = {
        "left": labels[sources[:, 0]],
        "right": labels[sources[:, 1]],
        "mask": (layers[:, :1] > 0.5).float(),
    }
    return Pairs(images, targets, sources)
