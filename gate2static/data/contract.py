"""The interface of data sets: a description that needs no files, and three splits.

Targets by kind, for one sample whose image is (C, H, W):

| kind | target |
|---|---|
| `classification` | int64 scalar, a class |
| `attributes` | float32 (A,) of 0 and 1; `channels` is A |
| `semantic` | int64 (H, W), a class or `IGNORE` |
| `depth` | float32 (1, H, W) in metres; 0 or less is invalid |
| `normals` | float32 (3, H, W), unit vectors; the zero vector is invalid |
| `edges`, `saliency`, `mask` | float32 (1, H, W) of 0 and 1, or `IGNORE` |
| `keypoints` | float32 (1, H, W), a heat map; below 0 is invalid |
| `instance_offsets` | float32 (2, H, W), x and y from the instance's centre in shares of the image, or `IGNORE` |

The x axis of normals and offsets points along the image's columns and the y axis along its rows, so that turning or
mirroring the image turns or mirrors them in the same way. The direction of z depends on the data set.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from gate2static.recipe import Strict

Sample = tuple[Tensor, dict[str, Tensor]]
"""An image (C, H, W) and the target of every task."""

IGNORE = 255
"""The value of pixels that count neither in losses nor in metrics, in targets of classes or of 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class TargetSpec:
    """One target of a data set.

    Attributes:
        kind: The kind of task.
        channels: The number of outputs that a head for it needs.
        classes: The names of the outputs, where they have names.
        unit: The unit of the target's numbers, where it is not that of the kind.
    """

    kind: str
    channels: int
    classes: tuple[str, ...] = ()
    unit: str | None = None


@dataclass(frozen=True, kw_only=True)
class PixelSpec:
    """How a data set's bytes become the numbers of an image: (byte / 255 − mean) / std, colour by colour.

    Attributes:
        colours: The colours in their order, "RGB" or "grey".
        mean: The mean that is subtracted, one number per colour, for colours in [0, 1].
        std: The deviation that is divided by, one number per colour.
    """

    colours: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = PixelSpec(colours="RGB", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SIGNED_GREY = PixelSpec(colours="grey", mean=(0.5,), std=(0.5,))
"""Grey from -1 to 1."""


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The description of a data set, which networks for it must fit.

    Attributes:
        image_shape: The images' (C, H, W).
        targets: The targets by name.
        pixels: How bytes become the numbers of an image.
    """

    image_shape: tuple[int, int, int]
    targets: dict[str, TargetSpec]
    pixels: PixelSpec = IMAGENET

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of every target, by name."""
        return {name: target.kind for name, target in self.targets.items()}


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The three splits of a data set.

    Attributes:
        train: The training data, which is in no other split.
        val: The data that is measured during training. For a data set without a validation split it may be the test
            split; then nothing is selected on it.
        test: The data that results are reported for.
    """

    train: Dataset[Sample]
    val: Dataset[Sample]
    test: Dataset[Sample]


@dataclass(frozen=True, kw_only=True)
class OwnData:
    """A data set of the user's own, as a function that is marked with `plugins.dataset` returns it.

    Attributes:
        spec: The data set's description; nothing is read for it.
        splits: Reads the data set. Samples may have more targets than a recipe's tasks.
    """

    spec: DataSpec
    splits: Callable[[], Splits]


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """A registry entry of a data set.

    Attributes:
        options: The schema of the options.
        describe: Maps options to the data set's description.
        load: Maps options and a description, which may have fewer targets, to the splits. Files of left-out targets are
            not needed.
    """

    options: type[Strict]
    describe: Callable[[Any], DataSpec]
    load: Callable[[Any, DataSpec], Splits]
