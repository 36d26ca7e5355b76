"""Two pieces of clothing in one image, as MultiFashion (Lin et al., 2019), from Fashion-MNIST (Xiao et al., 2017).

Two photographs of 28×28 lie in 36×36 pixels, one in the upper left corner and one in the lower right; where they
overlap, the brighter pixel wins. The targets `upper_left` and `lower_right` are the two classes, and `mask` has the
pixels of the item in the upper left.

The training and validation images are made from the 60,000 training photographs, which are split before they are
combined; the test images from the 10,000 test photographs. So no photograph is in two splits.

```
ROOT/train-images-idx3-ubyte.gz     ROOT/train-labels-idx1-ubyte.gz      60,000 photographs
     t10k-images-idx3-ubyte.gz           t10k-labels-idx1-ubyte.gz       10,000 photographs
```
The files may be unpacked, and may be below `FashionMNIST/raw` as torchvision has them.
"""

from pathlib import Path

import torch
from torch import Tensor

from gate2static.data.contract import SIGNED_GREY, DataSpec, Splits, TargetSpec
from gate2static.data.files import RootOptions, existing_root
from gate2static.data.pairs.idx import read_idx
from gate2static.data.pairs.pairs import Images, PairOptions, Pairs, place
from gate2static.errors import DataError

SIDE = 36
ITEM_SIDE = 28
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
PLACES = ("", "raw", "FashionMNIST/raw")
"""The folders below the root where copies have the files."""
VAL_SHARE = 1 / 12
"""The share of the training photographs that validation images are made from: 5,000 of 60,000."""
DARKEST = 12
"""The darkest pixel of an item, of 255; backgrounds are 0, and the shadows around an item a little more."""


class MultiFashionOptions(RootOptions, PairOptions):
    """The options of `multi_fashion`: the folder, the number of images, and the seed."""

    train_images: Images = 20_000
    val_images: Images = 2_000
    test_images: Images = 10_000


def describe(options: MultiFashionOptions) -> DataSpec:
    """Describes images of one channel and 36×36 pixels, with two items to classify and one mask."""
    item = TargetSpec(kind="classification", channels=len(CLASSES), classes=CLASSES)
    return DataSpec(
        image_shape=(1, SIDE, SIDE),
        pixels=SIGNED_GREY,
        targets={"upper_left": item, "lower_right": item, "mask": TargetSpec(kind="mask", channels=1)},
    )


def load(options: MultiFashionOptions, spec: DataSpec) -> Splits:
    """Splits the training photographs and builds the images of every split; equal options give equal bytes.

    Raises:
        DataError: A file is missing or broken, or the files do not belong together.
    """
    root = existing_root(options)
    photographs, labels = _read(root, "train")
    generator = torch.Generator().manual_seed(options.seed)
    order = torch.randperm(len(labels), generator=generator)
    val_end = max(1, round(VAL_SHARE * len(order)))
    train = _compose(photographs, labels, order[val_end:], options.train_images, generator)
    val = _compose(photographs, labels, order[:val_end], options.val_images, generator)
    photographs, labels = _read(root, "t10k")
    test = _compose(photographs, labels, torch.arange(len(labels)), options.test_images, generator)
    return Splits(train=train.with_targets(spec), val=val.with_targets(spec), test=test.with_targets(spec))


def _read(root: Path, part: str) -> tuple[Tensor, Tensor]:
    """Returns the photographs (items, 28, 28) and the labels of one part."""
    path = _find(root, f"{part}-images-idx3-ubyte")
    photographs = read_idx(path, 3)
    labels_path = _find(root, f"{part}-labels-idx1-ubyte")
    labels = read_idx(labels_path, 1).long()
    if photographs.shape[1:] != (ITEM_SIDE, ITEM_SIDE) or len(photographs) < 2:
        raise DataError(
            f"{path}: found {' × '.join(map(str, photographs.shape))} bytes; allowed: two or more images of "
            f"{ITEM_SIDE}×{ITEM_SIDE}"
        )
    if len(photographs) != len(labels):
        raise DataError(
            f"{labels_path}: found {len(labels):,} labels; {path.name} has {len(photographs):,} images; "
            "unpack the data set again"
        )
    if int(labels.max()) >= len(CLASSES):
        raise DataError(f"{labels_path}: found label {int(labels.max())}; allowed: 0 to {len(CLASSES) - 1}")
    return photographs, labels


def _find(root: Path, name: str) -> Path:
    """Returns the file of this name, compressed or not, in one of the places where copies have it."""
    for path in (root / folder / file for folder in PLACES for file in (name, f"{name}.gz")):
        if path.exists():
            return path
    raise DataError(
        f"{root}: no {name} or {name}.gz in it, in raw or in FashionMNIST/raw; give the folder with Fashion-MNIST's "
        "four files: /usr/share/datasets/fashion-mnist of Debian's package dataset-fashion-mnist, or torchvision's"
    )


def _compose(photographs: Tensor, labels: Tensor, items: Tensor, count: int, generator: torch.Generator) -> Pairs:
    """Builds images of random pairs of items.

    Args:
        photographs: All photographs, bytes (photographs, 28, 28).
        labels: The class of every photograph.
        items: The indices of the split's photographs.
        count: The number of images.
        generator: The source of randomness.
    """
    sources = items[torch.randint(len(items), (count, 2), generator=generator)]
    corners = torch.tensor([0, SIDE - ITEM_SIDE]).expand(count, 2)
    layers = place(photographs, sources, corners, corners, SIDE)  # (images, [upper left, lower right], rows, columns)
    targets = {
        "upper_left": labels[sources[:, 0]],
        "lower_right": labels[sources[:, 1]],
        "mask": (layers[:, :1] >= DARKEST).to(torch.uint8),
    }
    return Pairs(layers.amax(dim=1, keepdim=True), targets, sources)
