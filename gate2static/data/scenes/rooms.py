"""The data set of rooms: pictures of random rooms with their targets, held in memory."""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import Dataset

from gate2static.data.contract import Sample
from gate2static.data.scenes.layout import draw_scene
from gate2static.data.scenes.maps import edges, salient
from gate2static.data.scenes.render import paint, see
from gate2static.data.transforms import normalise
from gate2static.progress import progress_bar

_UNIT = 32767
"""The scale of stored normals, which are whole numbers and so take half the memory."""
_PATIENCE_S = 2.0

_TARGETS: dict[str, Callable[[Tensor], Tensor]] = {
    "semantic": Tensor.long,
    "depth": Tensor.float,
    "normals": lambda values: values / _UNIT,
    "edges": Tensor.float,
    "saliency": Tensor.float,
}
"""By target, the conversion from its stored form."""


class Rooms(Dataset[Sample]):
    """Pictures and targets, stored in a compact form.

    Args:
        maps: N entries of `image` and of each target, in the form of `make_room`.
    """

    def __init__(self, maps: dict[str, Tensor]) -> None:
        self.maps = maps

    def __len__(self) -> int:
        return len(self.maps["image"])

    def __getitem__(self, index: int) -> Sample:
        maps = {name: values[index] for name, values in self.maps.items()}
        image = normalise(maps.pop("image") / 255)
        return image, {name: _TARGETS[name](values) for name, values in maps.items()}


def make_room(seed: int, split: int, index: int, size: int) -> dict[str, Tensor]:
    """Renders one picture and its targets in their stored form; the result depends on the arguments only."""
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, split, index))))
    scene = draw_scene(random)
    surfaces = see(scene, size)
    normals = scene.camera.from_world(surfaces.normals)
    maps = {
        "image": paint(scene, surfaces, size, random),
        "semantic": surfaces.classes.astype(np.uint8).reshape(size, size),
        "depth": surfaces.depth.astype(np.float32).reshape(1, size, size),
        "normals": np.round(normals * _UNIT).astype(np.int16).reshape(3, size, size),
        "edges": edges(surfaces, size)[None],
        "saliency": salient(surfaces, size)[None],
    }
    return {name: torch.from_numpy(values) for name, values in maps.items()}


def make_rooms(seed: int, split: int, count: int, size: int, targets: Collection[str]) -> Rooms:
    """Renders pictures and some of their targets, with a progress bar if that takes long.

    Args:
        seed: The data set's seed.
        split: The split's number.
        count: The number of pictures.
        size: The height and width of pictures.
        targets: The names of the targets.
    """
    maps: dict[str, Tensor] = {}
    for index in _with_bar(range(count)):
        room = make_room(seed, split, index, size)
        for name in ("image", *targets):
            if name not in maps:
                maps[name] = room[name].new_empty((count, *room[name].shape))
            maps[name][index] = room[name]
    return Rooms(maps)


def _with_bar(indices: range) -> Iterator[int]:
    """Yields the indices, and shows a progress bar on stderr after two seconds."""
    start = time.monotonic()
    with ExitStack() as stack:
        bar: Progress | None = None
        for index in indices:
            if bar is None and time.monotonic() - start > _PATIENCE_S:
                bar = stack.enter_context(progress_bar(visible=True))
                bar.add_task("rendering scenes", total=len(indices))
            if bar is not None:
                bar.update(bar.task_ids[0], completed=index)
            yield index
