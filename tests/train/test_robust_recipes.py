"""The recipes of Mao et al. train on tiny folders in the layouts that they name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gate2static.data import describe_data, load_data
from gate2static.models import MultiTaskNetwork, build_model
from gate2static.recipe import load_recipe
from gate2static.tasks import build_tasks
from gate2static.train.loop.checkpoints import load_checkpoint
from gate2static.train.loop.loop import train_network
from gate2static.train.loop.network_run import NetworkRun
from gate2static.train.loop.progress import TrainingProgress
from gate2static.train.processes.devices import start_fabric

SIZE = (64, 64)
SMALL = (
    "data.options.size=[64, 64]",
    "data.options.val_images=1",
    "model.options={pretrained: false, width: 0.125}",
    "gating.shared_init=shared",
    *(f"training.{kind}.epochs=1" for kind in ("single", "shared", "gated")),
    *(f"training.{kind}.batch_size=2" for kind in ("single", "shared", "gated")),
    "training.workers=0",
    "training.device=cpu",
)


def picture(path: Path, value: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(value).save(path)


def cityscapes(root: Path) -> Path:
    numbers = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 1)):
        for number in range(count):
            name = f"{split}/city/city_{number:06d}_000019"
            ids = np.where(np.arange(64)[None, :] < 20 + number, 26, 7).repeat(64, axis=0)
            picture(root / f"leftImg8bit/{name}_leftImg8bit.png", numbers.integers(0, 255, (*SIZE, 3), np.uint8))
            picture(root / f"gtFine/{name}_gtFine_labelIds.png", ids.astype(np.uint8))
            instances = np.where(ids == 26, 26000, 7).astype(np.uint16)
            picture(root / f"gtFine/{name}_gtFine_instanceIds.png", instances)
            picture(root / f"disparity/{name}_disparity.png", (ids * 256).astype(np.uint16))
    return root


def nyud(root: Path) -> Path:
    numbers = np.random.default_rng(0)
    (root / "gt_sets").mkdir(parents=True)
    for split, count in (("train", 5), ("val", 1)):
        names = [f"{split}_{number}" for number in range(count)]
        (root / "gt_sets" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            for folder in ("depth", "normals"):
                (root / folder).mkdir(exist_ok=True)
            picture(root / f"images/{name}.jpg", numbers.integers(0, 255, (480, 640, 3), np.uint8))
            picture(root / f"segmentation/{name}.png", numbers.integers(1, 40, (480, 640), np.uint8))
            np.save(root / f"depth/{name}.npy", np.full((480, 640), 2.0, np.float32))
            np.save(root / f"normals/{name}.npy", np.broadcast_to(np.float32([0, 0, 1]), (480, 640, 3)))
    return root


@pytest.mark.parametrize(("name", "make"), [("cityscapes", cityscapes), ("nyud", nyud)])
def test_a_recipe_trains_two_steps_of_the_shared_network(
    name: str, make: Callable[[Path], Path], tmp_path: Path
) -> None:
    root = make(tmp_path / "data")
    recipe = load_recipe(f"recipes/{name}_robust_resnet18.yaml", [*SMALL, f"data.options.root={root}"])
    tasks = build_tasks(recipe.tasks, describe_data(recipe.data))
    backbone, heads, _ = build_model(recipe)
    run = NetworkRun(
        name="shared",
        kind="shared",
        model=MultiTaskNetwork(backbone, heads),
        tasks=tasks,
        recipe=recipe,
        run_dir=tmp_path / "run",
    )
    splits = load_data(recipe.data, [task.name for task in tasks])
    silent = TrainingProgress(enabled=False, total_cost=0)
    train_network(run, splits, fabric=start_fabric(recipe), go_on=False, progress=silent)
    content = load_checkpoint(run.checkpoint)
    (row,) = content["position"]["log"]
    assert {f"loss/{task.name}" for task in tasks} <= row.keys()
    # The rate of the second of two steps, in a warm-up of 100.
    assert row["lr"] == pytest.approx(1e-4 * 2 / 100)
    assert all(group["momentum"] == 0.9 for group in content["optimisers"]["weights"]["param_groups"])
