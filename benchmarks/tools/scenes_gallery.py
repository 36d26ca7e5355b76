"""Draws docs/scenes.png: what the `scenes` data set shows and knows.

Run:  python -m benchmarks.tools.scenes_gallery
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks import DOCS
from gate2static.data.in_memory import InMemory
from gate2static.data.scenes import CLASSES, TARGETS, TRAIN
from gate2static.data.scenes.rooms import make_room
from gate2static.data.transforms import IMAGENET_MEAN, IMAGENET_STD

PAGE = DOCS / "scenes.png"
ROWS = ("image", "semantic", "depth", "normals", "edges", "saliency")
PALETTE = colormaps["tab20"].colors[: len(CLASSES)]


def main() -> None:
    """Render and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument(
        "--scenes", type=int, nargs="+", default=[0, 2, 7, 13, 18, 19], help="which images of the train split"
    )
    parser.add_argument("--out", type=Path, default=PAGE)
    arguments = parser.parse_args()
    rooms = [make_room(0, TRAIN, index, arguments.size) for index in arguments.scenes]
    kinds = {name: target.kind for name, target in TARGETS.items()}
    samples = InMemory({name: torch.stack([room[name] for room in rooms]) for name in rooms[0]}, kinds)
    figure = Figure(figsize=(1.5 * len(rooms) + 1.4, 1.5 * len(ROWS)), layout="constrained")
    axes = figure.subplots(len(ROWS), len(rooms), squeeze=False)
    deepest = max(float(room["depth"].max()) for room in rooms)
    for column in range(len(rooms)):
        image, targets = samples[column]
        mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        pictures = {
            "image": (image * std + mean).clamp(0, 1).movedim(0, -1).numpy(),
            "semantic": np.array(PALETTE)[targets["semantic"].numpy()],
            "normals": ((targets["normals"] * torch.tensor([1.0, -1.0, -1.0])[:, None, None] + 1) / 2)
            .movedim(0, -1)
            .numpy(),
            **{name: targets[name][0].numpy() for name in ("depth", "edges", "saliency")},
        }
        for row, name in enumerate(ROWS):
            colours = (
                {"cmap": "magma_r", "vmin": 0, "vmax": deepest}
                if name == "depth"
                else {"cmap": "gray", "vmin": 0, "vmax": 1}
            )
            axes[row, column].imshow(pictures[name], interpolation="nearest", **colours)
            axes[row, column].set(xticks=[], yticks=[])
            axes[row, column].spines[:].set_visible(False)
    for row, name in enumerate(ROWS):
        axes[row, 0].set_ylabel(name)
    patches = [Patch(color=colour, label=name) for colour, name in zip(PALETTE, CLASSES, strict=True)]
    figure.legend(handles=patches, loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(arguments.out, dpi=100)
    print(arguments.out)


if __name__ == "__main__":
    main()
