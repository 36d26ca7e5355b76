"""Two real handwritten digits in one image, as in Multi-MNIST, from scikit-learn's bundled 1,797 scans.

A composition holds a left and a right digit that overlap; where both have ink the darker one wins. Targets: `left` and
`right`, which digits they are, and `mask`, which pixels belong to the left digit. The first two want features that
forget where the ink is, the third wants every edge; and telling the left digit's ink from the right one's in the
overlap is what makes the tasks compete for a narrow network's channels.

The scans are split before they are pasted, so no scan is in two splits.
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
"""How the scans are divided."""

Images = Annotated[int, Field(ge=1, le=100_000)]


class DigitsOptions(Strict):
    """How many compositions to make, how large a digit is, and from which seed."""

    train_images: Images = 4096
    val_images: Images = 512
    test_images: Images = 2048
    digit_size: Annotated[int, Field(ge=8, le=SIDE)] = 22
    """Side of one digit in pixels; two of them overlap when it is more than half of 32."""
    seed: int = 0
    """Of the split and the compositions; apart from the recipe's seed, so that all seeds see the same data."""


class DigitPairs(Dataset[Sample]):
    """Compositions held in memory."""

    def __init__(self, images: Tensor, targets: dict[str, Tensor], sources: Tensor) -> None:
        """Holds `images` (N, 1, 32, 32), `targets` of N each, and `sources` (N, 2): the scans that were pasted."""
        self.images, self.targets, self.sources = images, targets, sources

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return self.images[index], {name: target[index] for name, target in self.targets.items()}


def describe(options: DigitsOptions) -> DataSpec:
    """One channel of 32×32; two digits to name and one mask to draw."""
    digit = TargetSpec(kind="classification", channels=10)
    return DataSpec(
        image_shape=(1, SIDE, SIDE),
        targets={"left": digit, "right": digit, "mask": TargetSpec(kind="mask", channels=1)},
    )


def load(options: DigitsOptions, spec: DataSpec) -> Splits:
    """Splits the scans and composes the images of every split; the same options give the same bytes."""
    from sklearn.datasets import load_digits  # scikit-learn takes a second to import, and only training needs it

    bunch = load_digits()
    scans = torch.from_numpy(bunch.images).float().div(INK_MAX)
    labels = torch.from_numpy(bunch.target).long()
    generator = torch.Generator().manual_seed(options.seed)
    order = torch.randperm(len(scans), generator=generator)
    first, second = round(SHARES["train"] * len(order)), round((SHARES["train"] + SHARES["val"]) * len(order))
    parts = dict(zip(SHARES, (order[:first], order[first:second], order[second:]), strict=True))
    size = options.digit_size
    ink = F.interpolate(scans[:, None], size=(size, size), mode="bilinear", align_corners=False).clamp(0, 1)[:, 0]
    counts = {"train": options.train_images, "val": options.val_images, "test": options.test_images}
    made = {name: _compose(ink, labels, parts[name], counts[name], generator) for name in SHARES}
    for pairs in made.values():
        pairs.targets = {name: pairs.targets[name] for name in spec.targets}
    return Splits(**made)


def _compose(ink: Tensor, labels: Tensor, pool: Tensor, count: int, generator: torch.Generator) -> DigitPairs:
    """Pastes `count` random pairs from `pool` at random heights, the left one near the left edge."""
    size = ink.shape[-1]
    slack = SIDE - size
    sources = pool[torch.randint(len(pool), (count, 2), generator=generator)]
    rows = torch.randint(slack + 1, (count, 2), generator=generator).tolist()
    # Each digit keeps to its own third of the free columns, so that "left" is never ambiguous.
    jitter = torch.randint(slack // 3 + 1, (count, 2), generator=generator)
    columns = torch.stack([jitter[:, 0], slack - jitter[:, 1]], dim=1).tolist()
    layers = torch.zeros(count, 2, SIDE, SIDE)
    for index, ((top_l, top_r), (at_l, at_r)) in enumerate(zip(rows, columns, strict=True)):
        left, right = sources[index]
        layers[index, 0, top_l : top_l + size, at_l : at_l + size] = ink[left]
        layers[index, 1, top_r : top_r + size, at_r : at_r + size] = ink[right]
    images = layers.amax(dim=1, keepdim=True) * 2 - 1
    targets = {
        "left": labels[sources[:, 0]],
        "right": labels[sources[:, 1]],
        "mask": (layers[:, :1] > 0.5).float(),
    }
    return DigitPairs(images, targets, sources)
