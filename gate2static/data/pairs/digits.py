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
from torch.utils.data import Dataset

from gate2static.data.contract import DataSpec, Sample, Splits, TargetSpec
from gate2static.recipe import Strict

SIDE = 32
INK_MAX = 16.0
SHARES = {"train": 0.6, "val": 0.15, "test": 0.25}
"""The share of the scans in each split."""

Images = Annotated[int, Field(ge=1, le=100_000)]


class DigitsOptions(Strict):
    """The options of `digits`: the number of images, the size of a digit, and the seed."""

    train_images: Images = 4096
    val_images: Images = 512
    test_images: Images = 2048
    digit_size: Annotated[int, Field(ge=8, le=SIDE)] = 22
    """The height and width of one digit in pixels; two digits overlap if it is more than half of 32."""
    seed: int = 0
    """The seed of the split and the images; it is not the recipe's seed, so that all runs see the same data."""


class DigitPairs(Dataset[Sample]):
    """Images of two digits, held in memory.

    Args:
        images: The images, (N, 1, 32, 32).
        targets: N targets of each task, by name.
        sources: The scans of the left and the right digit, (N, 2).
    """

    def __init__(self, images: Tensor, targets: dict[str, Tensor], sources: Tensor) -> None:
        self.images = images
        self.targets = targets
        self.sources = sources

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return self.images[index], {name: target[index] for name, target in self.targets.items()}


def describe(options: DigitsOptions) -> DataSpec:
    """Describes images of one channel and 32×32 pixels, with two digits to classify and one mask."""
    digit = TargetSpec(kind="classification", channels=10)
    return DataSpec(
        image_shape=(1, SIDE, SIDE),
        targets={"left": digit, "right": digit, "mask": TargetSpec(kind="mask", channels=1)},
    )


def load(options: DigitsOptions, spec: DataSpec) -> Splits:
    """Splits the scans and builds the images of every split; equal options give equal bytes."""
    from sklearn.datasets import load_digits  # takes a second to import, and only training needs it

    bunch = load_digits()
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
    for pairs in splits.values():
        pairs.targets = {name: pairs.targets[name] for name in spec.targets}
    return Splits(**splits)


def _compose(ink: Tensor, labels: Tensor, scans: Tensor, count: int, generator: torch.Generator) -> DigitPairs:
    """Builds images of random pairs of scans at random heights, with the left digit near the left edge.

    Args:
        ink: All scans at their final size, (scans, size, size) in [0, 1].
        labels: The digit of every scan.
        scans: The indices of the split's scans.
        count: The number of images.
        generator: The source of randomness.
    """
    size = ink.shape[-1]
    slack = SIDE - size
    sources = scans[torch.randint(len(scans), (count, 2), generator=generator)]
    rows = torch.randint(slack + 1, (count, 2), generator=generator).tolist()
    # Each digit keeps to its own third of the free columns, so that "left" is never ambiguous.
    jitter = torch.randint(slack // 3 + 1, (count, 2), generator=generator)
    columns = torch.stack([jitter[:, 0], slack - jitter[:, 1]], dim=1).tolist()
    layers = torch.zeros(count, 2, SIDE, SIDE)  # (images, [left, right], rows, columns)
    for index, ((top_l, top_r), (at_l, at_r)) in enumerate(zip(rows, columns, strict=True)):
        left, right = sources[index]
        layers[index, 0, top_l : top_l + size, at_l : at_l + size] = ink[left]
        layers[index, 1, top_r : top_r + size, at_r : at_r + size] = ink[right]
    images = layers.amax(dim=1, keepdim=True) * 2 - 1  # (images, 1, 32, 32) in [-1, 1]
    targets = {
        "left": labels[sources[:, 0]],
        "right": labels[sources[:, 1]],
        "mask": (layers[:, :1] > 0.5).float(),
    }
    return DigitPairs(images, targets, sources)
