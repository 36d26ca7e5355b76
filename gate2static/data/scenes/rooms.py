"""The data set of rooms: pictures of random rooms with their targets, held in memory."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from gate2static.data.contract import TargetSpec
from gate2static.data.in_memory import NORMALS_UNIT, InMemory, stack
from gate2static.data.scenes.layout import draw_scene
from gate2static.data.scenes.maps import edges, salient
from gate2static.data.scenes.render import paint, see


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
        "normals": np.round(normals * NORMALS_UNIT).astype(np.int16).reshape(3, size, size),
        "edges": edges(surfaces, size)[None],
        "saliency": salient(surfaces, size)[None],
    }
    return {name: torch.from_numpy(values) for name, values in maps.items()}


def make_rooms(seed: int, split: int, count: int, size: int, targets: Mapping[str, TargetSpec]) -> InMemory:
    """Renders pictures and some of their targets, with a progress bar if that takes long.

    Args:
        seed: The data set's seed.
        split: The split's number.
        count: The number of pictures.
        size: The height and width of pictures.
        targets: The targets by name.
    """

    def room(index: int) -> dict[str, Tensor]:
        maps = make_room(seed, split, index, size)
        return {name: maps[name] for name in ("image", *targets)}

    return InMemory(stack(room, count, "rendering scenes"), {name: target.kind for name, target in targets.items()})
