"""Tiny scenes in MetaGraspNet's layout: coloured rectangles at different depths, the nearer ones hiding the others."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (96, 128)
RECTANGLES = (
    # category, depth in cm, then the first and the last row and column of the whole object
    (97, 70.0, 10, 59, 12, 61),
    (3, 60.0, 40, 79, 40, 79),
    (12, 80.0, 20, 69, 90, 117),
)
"""The second rectangle hides 440 of the 2,500 pixels of the first; the third is seen whole."""


def write_viewpoint(
    folder: Path,
    viewpoint: int,
    *,
    rectangles: Sequence[tuple[int, float, int, int, int, int]] = RECTANGLES,
    amodal_name: str = "seg_masks_single",
    shift: int = 0,
    hdf5: bool = False,
) -> Path:
    """Writes the files of one viewpoint.

    Args:
        folder: The scene's folder, such as ROOT/scene0.
        viewpoint: The viewpoint's number, which also seeds the noise of the colours.
        rectangles: The objects, as `RECTANGLES`.
        amodal_name: The name of the whole objects' masks.
        shift: Pixels by which the objects are moved to the right and up, so that scenes differ; 10 at most.
        hdf5: Whether to write the scene's HDF5 file, which needs h5py.

    Returns:
        The path of the `.npz` file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    colours = np.full((*SIZE, 3), 90, np.uint8)
    depth = np.full(SIZE, 100.0, np.float32)
    depth[:3] = np.nan
    instances = np.zeros(SIZE, np.float32)
    amodal = np.zeros((len(rectangles), *SIZE), np.uint8)
    numbers = np.random.default_rng(viewpoint)
    for number, (category, distance, top, bottom, left, right) in enumerate(rectangles):
        amodal[number, top - shift : bottom + 1 - shift, left + shift : right + 1 + shift] = 1
        seen = (amodal[number] == 1) & (depth > distance)
        depth[seen] = distance
        instances[seen] = number + 1
        colours[seen] = (40 + 50 * number, 200 - 60 * number, (category * 37) % 255)
    colours += numbers.integers(0, 9, colours.shape, np.uint8)
    Image.fromarray(colours).save(folder / f"{viewpoint}_rgb.png")
    arrays = folder / f"{viewpoint}.npz"
    semantic = np.zeros(SIZE, np.float32)
    np.savez_compressed(
        arrays,
        depth=depth,
        instances_objects=instances,
        instances_semantic=semantic,
        occlusion=(amodal.sum(0) > 1).astype(np.float32),
        **{amodal_name: amodal},
    )
    if hdf5:
        import h5py

        with h5py.File(folder / f"{viewpoint}_scene.hdf5", "w") as scene:
            scene["camera/pose_relative_to_world"] = np.eye(4)[None]
            scene["objects/categories"] = np.array([[float(category)] for category, *_ in rectangles])
            scene["objects/bbox_loose"] = np.zeros((len(rectangles), 4))
    return arrays
