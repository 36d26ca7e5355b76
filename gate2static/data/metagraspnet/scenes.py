"""The synthetic scenes of MetaGraspNet, versions 1 and 2: images with depth, and the objects in them.

```
ROOT/scene0/0_rgb.png       viewpoint 0 of scene 0
            0.npz           depth (cm); instances_objects, 0 or the object's number from 1; and the masks of whole
                            objects, (objects, H, W), as seg_masks_single or occlusion_objects
            0_scene.hdf5    objects/categories (objects,): 1 to 97, in the order of the objects' numbers
```
docs/metagraspnet.md says where each of these facts is from, and which of them nobody has confirmed.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gate2static.arguments import require_count, require_path
from gate2static.data.checks import check_image
from gate2static.data.decoding import read_image, valid_depth
from gate2static.data.files import require_files
from gate2static.data.metagraspnet.reading import Array, names_in, read_array, read_categories
from gate2static.data.transforms import normalise
from gate2static.errors import DataError
from gate2static.runtimes.optional import require

CATEGORIES = 97
"""The largest category; the published list names 96 of the numbers from 1 to 97."""
OCCLUDED = 0.05
"""The share of an object that is hidden, from which on it counts as occluded, as in UOAIS-Net's code."""
MOST_OUTSIDE = 0.05
"""The largest share of an object's visible pixels outside its own whole mask; more means another order of the masks."""
AMODAL_NAMES = ("seg_masks_single", "occlusion_objects")
LAYOUT = "MetaGraspNet"
_CM_PER_M = 100

Objects = dict[str, Tensor]
"""The objects of one image, those with a visible pixel: `boxes` float32 (N, 4) of whole objects, as x and y of two
corners in pixels; `labels` int64 (N,) from 1; `visible` and `amodal` bool (N, H, W); `occluded` float32 (N,) of 0 and
1."""


class MetaGraspNet(Dataset[tuple[Tensor, Objects]]):
    """Images (4, H, W), ImageNet-normalised RGB and depth in metres, 0 where it is unknown, with their objects.

    File names are looked at at once; files are read as they are asked for, and an error names the file. There is no
    published split, so training and test data are two instances with different scenes.

    Args:
        root: The folder that holds `scene0`, `scene1`, and so on.
        scenes: The numbers of the scenes to take; None takes all.
        size: The height and width that images are resized to.
        classes: `objects` for one class, as in UOAIS-Net, or `categories` for the 97 of the data set, which needs h5py.

    Raises:
        DataError: The folder is missing or has no scenes, a scene lacks a file, or an argument is not allowed.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        scenes: Collection[int] | None = None,
        size: tuple[int, int] = (512, 512),
        classes: Literal["objects", "categories"] = "objects",
    ) -> None:
        if classes not in ("objects", "categories"):
            raise DataError(f"classes is {classes!r}; allowed: objects, categories")
        self.classes = classes
        height, width = size
        self.size = (
            require_count(height, name="The height", error=DataError, least=32, most=4096),
            require_count(width, name="The width", error=DataError, least=32, most=4096),
        )
        self.viewpoints = _list_viewpoints(require_path(root, name="The root", error=DataError), scenes)
        suffixes = ["_rgb.png", ".npz", *(["_scene.hdf5"] if classes == "categories" else [])]
        require_files(LAYOUT, (_file(stem, suffix) for stem in self.viewpoints for suffix in suffixes))

    def __len__(self) -> int:
        return len(self.viewpoints)

    def __getitem__(self, index: int) -> tuple[Tensor, Objects]:
        stem = self.viewpoints[index]
        arrays = _file(stem, ".npz")
        image = read_image(_file(stem, "_rgb.png"))
        check_image(image, _file(stem, "_rgb.png"))
        depth = valid_depth(torch.from_numpy(read_array(arrays, "depth", dims=2).astype(np.float32)))[None]
        instances = read_array(arrays, "instances_objects", dims=2)
        amodal = _read_amodal(arrays)
        sizes = {"depth": depth.shape[-2:], "instances_objects": instances.shape, "whole masks": amodal.shape[-2:]}
        for name, size in sizes.items():
            if tuple(size) != tuple(image.shape[-2:]):
                raise DataError(
                    f"{arrays}: found {name} of {tuple(size)}, and an image of {tuple(image.shape[-2:])}; unpack the "
                    "data set again"
                )
        visible = _visible_masks(instances, amodal, arrays)
        labels = self._labels(stem, len(amodal))
        return self._resized(image, depth.clamp(min=0) / _CM_PER_M, visible, amodal, labels)

    def _labels(self, stem: Path, count: int) -> Tensor:
        if self.classes == "objects":
            return torch.ones(count, dtype=torch.int64)
        path = _file(stem, "_scene.hdf5")
        categories = read_categories(path, largest=CATEGORIES)
        if len(categories) != count:
            raise DataError(
                f"{path}: found {len(categories)} categories, and masks of {count} objects in {stem.name}.npz; unpack "
                "the data set again, or leave out the scene"
            )
        return torch.from_numpy(categories)

    def _resized(
        self, image: Tensor, depth: Tensor, visible: Array, amodal: Array, labels: Tensor
    ) -> tuple[Tensor, Objects]:
        tv = require("torchvision.transforms.v2.functional")

        def nearest(maps: Tensor) -> Tensor:
            resized: Tensor = tv.resize(maps, list(self.size), interpolation=tv.InterpolationMode.NEAREST_EXACT)
            return resized

        colours = normalise(tv.resize(image, list(self.size), antialias=True).clamp(0, 1))
        visible_masks = nearest(torch.from_numpy(visible)).bool()
        amodal_masks = nearest(torch.from_numpy(amodal)).bool()
        # What is seen of an object is part of it, also where the two renderings differ by a pixel at its edge.
        amodal_masks |= visible_masks
        found = visible_masks.flatten(1).any(dim=1)
        visible_masks = visible_masks[found]
        amodal_masks = amodal_masks[found]
        hidden = 1 - visible_masks.flatten(1).sum(dim=1) / amodal_masks.flatten(1).sum(dim=1).clamp(min=1)
        boxes = require("torchvision.ops").masks_to_boxes(amodal_masks).float()
        # The corner of the last pixel and not its number, so that a mask of one pixel has an area.
        boxes += torch.tensor([0.0, 0.0, 1.0, 1.0])
        objects = {
            "boxes": boxes,
            "labels": labels[found],
            "visible": visible_masks,
            "amodal": amodal_masks,
            "occluded": (hidden >= OCCLUDED).float(),
        }
        return torch.cat([colours, nearest(depth)]), objects


def collate(samples: Sequence[tuple[Tensor, Objects]]) -> tuple[Tensor, list[Objects]]:
    """Makes a batch for a `DataLoader`: images (N, 4, H, W), and one dict of objects per image."""
    return torch.stack([image for image, _ in samples]), [objects for _, objects in samples]


def _list_viewpoints(root: Path, scenes: Collection[int] | None) -> list[Path]:
    """Returns ROOT/sceneS/V of every viewpoint, by the numbers S and V."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give the folder that holds scene0, scene1, …")
    stems: list[tuple[int, int, Path]] = []
    for folder in root.iterdir():
        number = re.fullmatch(r"scene(\d{1,9})", folder.name)
        if number is None or not folder.is_dir() or (scenes is not None and int(number[1]) not in scenes):
            continue
        for path in folder.iterdir():
            if viewpoint := re.fullmatch(r"(\d{1,9})_rgb\.png", path.name):
                stems.append((int(number[1]), int(viewpoint[1]), folder / viewpoint[1]))
    if not stems:
        wanted = "" if scenes is None else f" among the {len(scenes)} scenes that were asked for"
        raise DataError(f"{root} holds no scene*/*_rgb.png{wanted}; give the folder that holds scene0, scene1, …")
    return [stem for *_, stem in sorted(stems)]


def _file(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


def _read_amodal(path: Path) -> Array:
    """Returns the masks of whole objects, uint8 (objects, H, W) of 0 and 1."""
    names = names_in(path)
    for name in AMODAL_NAMES:
        if name in names:
            masks: Array = (read_array(path, name, dims=3) != 0).astype(np.uint8)
            return masks
    raise DataError(
        f"{path}: found {', '.join(names) or 'nothing'}; masks of whole objects are needed, "
        f"{' or '.join(AMODAL_NAMES)}, which the synthetic scenes have and the real ones lack"
    )


def _visible_masks(instances: Array, amodal: Array, path: Path) -> Array:
    """Returns what is seen of each object, uint8 (objects, H, W) of 0 and 1, in the order of the whole masks."""
    count = len(amodal)
    if not np.all((instances >= 0) & (instances <= count) & (instances == np.round(instances))):  # also true for NaN
        raise DataError(
            f"{path}: instances_objects holds values from {instances.min():g} to {instances.max():g}; allowed: whole "
            f"numbers from 0 to {count}, one per mask of a whole object"
        )
    visible: Array = (instances[None] == np.arange(1, count + 1)[:, None, None]).astype(np.uint8)
    for number in range(count):
        seen = int(visible[number].sum())
        outside = int((visible[number] > amodal[number]).sum())
        if outside > MOST_OUTSIDE * seen:
            raise DataError(
                f"{path}: {outside} of {seen} visible pixels of object {number + 1} lie outside its own whole mask: "
                "masks and instances_objects have different orders; leave out the scene"
            )
    return visible
