"""Trains tiny networks in one and in two processes, for test_distributed.py to compare; takes a folder to write to."""

import contextlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from gate2static.data import DataSpec, Splits, TargetSpec, load_data, write_shards
from gate2static.data.contract import SIGNED_GREY
from gate2static.errors import TrainingError
from gate2static.gates import GatedModel, gate
from gate2static.models import MultiTaskNetwork
from gate2static.recipe import DataRecipe, Recipe, load_recipe, parse
from gate2static.tasks import KINDS, Task
from gate2static.train.loop.beginning import begin
from gate2static.train.loop.loop import train_network
from gate2static.train.loop.network_run import NetworkRun
from gate2static.train.loop.position import Position
from gate2static.train.loop.progress import TrainingProgress
from gate2static.train.processes.devices import launch, start_fabric
from gate2static.train.runs import _run_in_process

TASKS = (
    Task(name="kind", kind=KINDS["classification"], channels=3, weight=2, target=0.1),
    Task(name="depth", kind=KINDS["depth"], channels=1, target=0.1),
    Task(name="classes", kind=KINDS["semantic"], channels=3, target=0.1),
    Task(name="salient", kind=KINDS["saliency"], channels=1, target=0.1),
)


class Scenes(torch.utils.data.Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images of which very different parts are valid, some none at all."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(index)
        image = torch.randn(1, 8, 8, generator=generator)
        invalid = torch.rand(1, 8, 8, generator=generator) < (index % 4) / 3
        classes = (image[0] > 0).long() + (image[0] > 1).long()
        return image, {
            "kind": (image.mean() * 8).clamp(-1, 1).round().long() + 1,
            "depth": (image.abs() + 0.1).masked_fill(invalid, 0),
            "classes": classes.masked_fill(invalid[0], 255),
            "salient": (image > index % 3).float().masked_fill(invalid, 255),
        }


class Poison(nn.Module):
    """Nothing, until the second process's outputs are no longer numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float("nan") if torch.distributed.is_initialized() and torch.distributed.get_rank() == 1 else x


def network(*, gated: bool, drop: float = 0.0, poison: bool = False) -> nn.Module:
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(drop),
        nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
    )  # fmt: skip
    backbone.register_parameter("unused", nn.Parameter(torch.ones(2)))
    heads = {
        "kind": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
        "depth": nn.Sequential(nn.Conv2d(6, 1, 1), Poison() if poison else nn.Identity()),
        "classes": nn.Conv2d(6, 3, 1),
        "salient": nn.Conv2d(6, 1, 1),
    }
    if not gated:
        return MultiTaskNetwork(backbone, heads)
    return gate(backbone, tasks=list(heads), example_inputs=(torch.zeros(2, 1, 8, 8),), heads=heads)


METHODS: dict[str, Any] = {
    "pcgrad": "pcgrad",
    "mgda-features": {"method": "mgda", "at": "features"},
    "graddrop-features": {"method": "graddrop", "at": "features"},
    "gradnorm": "gradnorm",
    "famo": "famo",
    "auto_lambda": {"method": "auto_lambda", "options": {"lr": 0.01}},
}
"""What is trained with methods: every road of gradients, and every further look at a batch."""

STAGE: dict[str, Any] = {"epochs": 2, "batch_size": 8, "weights": {"lr": 0.01}}


def recipe(devices: int, **training: Any) -> Recipe:
    gated = {**STAGE, "settle_steps": 3}
    raw = {
        "name": "distributed",
        "data": {"name": "none"},
        "tasks": [{"name": task.name, "kind": "any"} for task in TASKS],
        "model": {"name": "none"},
        "training": {"shared": STAGE, "gated": gated, "device": "cpu", "devices": devices, **training},
    }
    return parse(Recipe, raw, where="test")


class Steps(TrainingProgress):
    """Interrupts training after a number of steps, as Ctrl-C does."""

    def __init__(self, steps: int) -> None:
        super().__init__(enabled=False, total_cost=0)
        self.steps = steps

    def advance(self, *, cost: float) -> None:
        self.steps -= 1
        if self.steps == 0:
            raise KeyboardInterrupt


# 27 images: the last batch of an epoch has three, so the processes have two and one.
SPLITS = Splits(train=Scenes(27), val=Scenes(11), test=Scenes(1))


class Printed(Scenes):
    """The same as pictures have them: from -1 to 1."""

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, targets = super().__getitem__(index)
        return image.clamp(-1, 1), targets


def write_as_shards(folder: Path) -> None:
    kinds = {"kind": "classification", "depth": "depth", "classes": "semantic", "salient": "saliency"}
    targets = {task.name: TargetSpec(kind=kinds[task.name], channels=task.channels) for task in TASKS}
    spec = DataSpec(image_shape=(1, 8, 8), targets=targets, pixels=SIGNED_GREY)
    write_shards(Splits(train=Printed(27), val=Printed(11), test=Printed(1)), spec, folder)


def shards(folder: Path) -> Splits:
    """Every process opens the tar files itself."""
    return load_data(parse(DataRecipe, yaml.safe_load((folder / "data.yaml").read_text())["data"], where="test"))


def network_run(fabric: Any, folder: Path, model: nn.Module, **training: Any) -> NetworkRun:
    gated = isinstance(model, GatedModel)
    return NetworkRun(
        name="network",
        kind="gated" if gated else "shared",
        model=model,
        tasks=TASKS,
        recipe=recipe(fabric.world_size, **training),
        run_dir=folder,
        sparsity_weight=0.5 if gated else 0.0,
    )


def held_bytes(fabric: Any, strategy: str) -> int:
    """The most bytes of weights that a process has while a network of six blocks runs, and those of the optimisers."""
    blocks = [nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()) for _ in range(6)]
    backbone = nn.Sequential(nn.Conv2d(1, 16, 1), *blocks)
    heads = {task.name: nn.Conv2d(16, task.channels, 1) for task in TASKS[1:]}
    gated = gate(backbone, tasks=list(heads), example_inputs=(torch.zeros(2, 1, 8, 8),), heads=heads)
    one = network_run(fabric, Path(), gated, strategy=strategy, gated=STAGE)
    training = begin(replace(one, tasks=TASKS[1:]), fabric, image=Scenes(1)[0][0], epoch_steps=1)
    seen: list[int] = []

    def look(*_: Any) -> None:
        seen.append(sum(local(parameter).nbytes for parameter in training.model.parameters()))

    for module in training.model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(look)
    batch: Any = torch.utils.data.default_collate([Scenes(4)[index] for index in range(4)])
    training.step(batch, Position(), images=8, number=0)
    states = [state for optimiser in training.optimisers.values() for state in optimiser.state.values()]
    return max(seen) + sum(local(value).nbytes for state in states for value in state.values())


def local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value


def fit(
    fabric: Any,
    folder: Path,
    model: nn.Module,
    *,
    splits: Splits = SPLITS,
    stop: int = -1,
    go_on: bool = False,
    **training: Any,
) -> None:
    one = network_run(fabric, folder, model, **training)
    train_network(one, splits, fabric=fabric, go_on=go_on, progress=Steps(stop))


def everything(fabric: Any, folder: Path) -> None:
    """Both kinds of network, and a whole run."""
    fit(fabric, folder / "shared", network(gated=False))
    fit(fabric, folder / "gated", network(gated=True))
    once = {**STAGE, "epochs": 1}
    fit(fabric, folder / "sharded", network(gated=False), splits=shards(folder.parent / "shards"), shared=once)
    for name, balancing in METHODS.items():
        shared = {**STAGE, "balancing": balancing}
        fit(fabric, folder / name, network(gated=False), shared=shared, conflict_steps=2)
    fit(fabric, folder / "gated-nash", network(gated=True), gated={**STAGE, "balancing": "nash"}, conflict_steps=2)
    stage = "{epochs: 1, batch_size: 8, weights: {lr: 1e-4}}"
    small = load_recipe(
        Path(__file__).parents[3] / "recipes" / "digits_tiny.yaml",
        [
            "data.options={train_images: 16, val_images: 5, test_images: 33}",
            "tasks=[{name: left, kind: classification}, {name: mask, kind: mask}]",
            *(f"training.{kind}={stage}" for kind in ("single", "shared", "gated")),
            f"training.devices={fabric.world_size}",
            "sparsity_weight=1",
        ],
    )
    rows = dict.fromkeys(("separate", "shared", "gated-1"), small)
    _run_in_process(fabric, small, folder / "run", rows, {}, resume=False, show=False)


def in_two(fabric: Any, folder: Path) -> None:
    everything(fabric, folder)
    fit(fabric, folder / "parts", network(gated=True), accumulate=2)
    # One epoch: every epoch starts processes that load, each of which takes seconds to import torch.
    fit(fabric, folder / "loaded", network(gated=False), workers=1, shared={**STAGE, "epochs": 1})
    sharded: dict[str, Any] = {"splits": shards(folder.parent / "shards"), "checkpoint_steps": 3}
    fit(fabric, folder / "whole", network(gated=True, drop=0.2), **sharded)
    try:
        fit(fabric, folder / "cut", network(gated=True, drop=0.2), stop=5, **sharded)
    except KeyboardInterrupt:
        torch.manual_seed(7)
    fit(fabric, folder / "cut", network(gated=True, drop=0.2), go_on=True, **sharded)
    with contextlib.suppress(KeyboardInterrupt):
        fit(fabric, folder / "other", network(gated=True), checkpoint_steps=3, stop=5)
    plain: dict[str, Any] = {"gated": {**STAGE, "epochs": 1}, "clip_norm": 1.0, "accumulate": 2, "checkpoint_steps": 3}
    fit(fabric, folder / "undivided", network(gated=True), **plain)
    with contextlib.suppress(KeyboardInterrupt):
        fit(fabric, folder / "divided", network(gated=True), strategy="fsdp", stop=3, **plain)
    fit(fabric, folder / "divided", network(gated=True), strategy="fsdp", go_on=True, **plain)
    held = {strategy: held_bytes(fabric, strategy) for strategy in ("ddp", "fsdp")}
    (folder / f"held{fabric.global_rank}.json").write_text(json.dumps(held))
    try:
        fit(fabric, folder / "poisoned", network(gated=False, poison=True))
    except TrainingError as error:
        (folder / f"error{fabric.global_rank}").write_text(str(error))
        fabric.barrier()
        if fabric.global_rank == 1:
            raise


def main(folder: Path) -> None:
    write_as_shards(folder / "shards")
    alone = start_fabric(recipe(1))
    launch(alone, everything, folder / "one")
    try:
        launch(start_fabric(recipe(2)), in_two, folder / "two")
    except TrainingError as error:
        (folder / "error").write_text(str(error))
    shutil.copytree(folder / "two" / "other", folder / "one" / "other")
    fit(alone, folder / "one" / "other", network(gated=True), checkpoint_steps=3, go_on=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
