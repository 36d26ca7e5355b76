"""Rendered rooms: an embedded data set of dense tasks with exact targets, drawn from a seed.

Each image is a room with furniture, ray-cast with one light that throws shadows, one fill light, and the noise of a
camera. The targets are exact: `semantic` (13 classes), `depth` along the optical axis in metres, `normals` of the
surfaces, `edges` where surfaces end, and `saliency`, the object that stands out most (`maps.py` defines the last two).
Normals are in the camera's axes, with x to the right, y down and z into the picture, so a wall seen head-on has
(0, 0, -1).

Textures and light are drawn in the same way for all classes. So an object's class shows in its shape and place only,
while depth and normals show in perspective and shading. Image i of a split depends on the seed, the split and i alone,
so a larger split begins with the images of a smaller one.
"""

from typing import Annotated

from pydantic import Field

from gate2static.data.augmented import with_augmentation
from gate2static.data.contract import DataSpec, Splits, TargetSpec
from gate2static.data.scenes.furniture import CLASSES
from gate2static.data.scenes.rooms import make_rooms
from gate2static.data.transforms import Augmentation
from gate2static.recipe import Strict

Images = Annotated[int, Field(ge=1, le=100_000)]

TARGETS = {
    "semantic": TargetSpec(kind="semantic", channels=len(CLASSES), classes=CLASSES),
    "depth": TargetSpec(kind="depth", channels=1),
    "normals": TargetSpec(kind="normals", channels=3),
    "edges": TargetSpec(kind="edges", channels=1),
    "saliency": TargetSpec(kind="saliency", channels=1),
}
TRAIN, VAL, TEST = range(3)


class ScenesOptions(Strict):
    """The options of `scenes`: the number and the size of pictures, and the seed."""

    train_images: Images = 4096
    val_images: Images = 512
    test_images: Images = 1024
    size: Annotated[int, Field(ge=16, le=512)] = 64
    """The height and width of pictures in pixels."""
    augment: bool = False
    """Whether to mirror half of the training images at random."""
    seed: Annotated[int, Field(ge=0)] = 0
    """The seed of rooms and augmentation; it is not the recipe's seed, so that all runs see the same data."""


def describe(options: ScenesOptions) -> DataSpec:
    """Describes ImageNet-normalised RGB images with five maps."""
    return DataSpec(image_shape=(3, options.size, options.size), targets=TARGETS)


def load(options: ScenesOptions, spec: DataSpec) -> Splits:
    """Renders all splits into memory, which takes 64 KiB per image with all targets at 64×64."""
    counts = {TRAIN: options.train_images, VAL: options.val_images, TEST: options.test_images}
    rooms = [make_rooms(options.seed, split, count, options.size, spec.targets) for split, count in counts.items()]
    flip = Augmentation(kinds={name: target.kind for name, target in spec.targets.items()})
    train = with_augmentation(rooms[TRAIN], flip, enabled=options.augment, seed=options.seed)
    return Splits(train=train, val=rooms[VAL], test=rooms[TEST])
