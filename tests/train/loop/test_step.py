"""How a step is computed changes its rounding and its cost, not what is trained; and which epoch is kept."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gate2static.data import Splits
from gate2static.errors import RecipeError
from gate2static.gates import GatedModel, gate
from gate2static.models import MultiTaskNetwork
from gate2static.recipe import Recipe, parse
from gate2static.tasks import KINDS, Task
from gate2static.train.loop.checkpoints import load_checkpoint
from gate2static.train.loop.log_columns import is_better
from gate2static.train.loop.loop import train_network
from gate2static.train.loop.network_run import NetworkRun
from gate2static.train.loop.progress import TrainingProgress
from gate2static.train.processes.devices import start_fabric

TASKS = (
    Task(name="kind", kind=KINDS["classification"], channels=3),
    Task(name="depth", kind=KINDS["depth"], channels=1),
)


class Scenes(torch.utils.data.Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images of which very different parts have a depth, some none at all."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(index)
        image = torch.randn(1, 8, 8, generator=generator)
        invalid = torch.rand(1, 8, 8, generator=generator) < (index % 4) / 3
        kind = (image.mean() * 8).clamp(-1, 1).round().long() + 1
        return image, {"kind": kind, "depth": (image.abs() + 0.1).masked_fill(invalid, 0)}


SPLITS = Splits(train=Scenes(27), val=Scenes(8), test=Scenes(1))


def network(*, gated: bool, norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=not norm), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU()
    )
    heads: dict[str, nn.Module] = {
        "kind": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
        "depth": nn.Conv2d(4, 1, 1),
    }
    if not gated:
        return MultiTaskNetwork(backbone, heads)
    return gate(backbone, tasks=list(heads), example_inputs=(torch.zeros(2, 1, 8, 8),), heads=heads)


def recipe(stage: dict[str, Any], **training: Any) -> Recipe:
    gated = {"epochs": 2, "batch_size": 8, "weights": {"lr": 0.01}} | stage
    shared = {key: value for key, value in gated.items() if key != "settle_steps"}
    raw = {
        "name": "step",
        "data": {"name": "none"},
        "tasks": [{"name": task.name, "kind": "any"} for task in TASKS],
        "model": {"name": "none"},
        "training": {"shared": shared, "gated": gated, "device": "cpu", **training},
    }
    return parse(Recipe, raw, where="test")


def fit(folder: Path, *, gated: bool = False, norm: bool = False, stage: Any = None, **training: Any) -> dict[str, Any]:
    model = network(gated=gated, norm=norm)
    one = NetworkRun(
        name="network",
        kind="gated" if gated else "shared",
        model=model,
        tasks=TASKS,
        recipe=recipe(stage or {}, **training),
        run_dir=folder,
        sparsity_weight=0.5 if isinstance(model, GatedModel) else 0.0,
    )
    progress = TrainingProgress(enabled=False, total_cost=0)
    train_network(one, SPLITS, fabric=start_fabric(one.recipe), go_on=False, progress=progress)
    return load_checkpoint(one.checkpoint)


def largest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    return max(float((one["model"][key].double() - other["model"][key].double()).abs().max()) for key in one["model"])


@pytest.mark.parametrize("gated", [False, True])
def test_parts_of_a_batch_add_up_to_it(tmp_path: Path, gated: bool) -> None:
    whole = fit(tmp_path / "whole", gated=gated)
    parts = fit(tmp_path / "parts", gated=gated, accumulate=4)
    assert largest_difference(whole, parts) < 1e-5
    for expected, found in zip(whole["position"]["log"], parts["position"]["log"], strict=True):
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("gated", [False, True])
def test_channels_last_changes_rounding_alone(tmp_path: Path, gated: bool) -> None:
    usual = fit(tmp_path / "usual", gated=gated, norm=True)
    assert largest_difference(usual, fit(tmp_path / "last", gated=gated, norm=True, channels_last=True)) < 1e-4


@pytest.mark.parametrize("gated", [False, True])
def test_bfloat16_trains_weights_in_float32(tmp_path: Path, gated: bool) -> None:
    half = fit(tmp_path / "half", gated=gated, norm=True, precision="bf16-mixed")
    assert all(value.dtype in (torch.float32, torch.int64) for value in half["model"].values())
    assert 1e-6 < largest_difference(fit(tmp_path / "usual", gated=gated, norm=True), half) < 0.1


@pytest.mark.parametrize("gated", [False, True])
def test_compiled_steps_train_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gated: bool) -> None:
    usual = fit(tmp_path / "usual", gated=gated, norm=True)
    # The eager backend captures graphs as the others do and takes no time to make code of them.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    assert largest_difference(usual, fit(tmp_path / "fast", gated=gated, norm=True, compile=True)) < 1e-5


def test_clipping_limits_the_gradient_of_the_weights_alone(tmp_path: Path) -> None:
    content = fit(tmp_path, gated=True, clip_norm=1e-6, stage={"epochs": 1, "weights": {"lr": 0.01, "weight_decay": 0}})
    moments = [state["exp_avg"] for state in content["optimisers"]["weights"]["state"].values()]
    assert 0 < torch.cat([m.flatten() for m in moments]).norm() <= 1e-6
    fresh = network(gated=True).state_dict()
    moved = [float((content["model"][key] - fresh[key]).abs().max()) for key in fresh if key.endswith("alpha")]
    assert min(moved) > 1e-4


def test_heads_may_have_a_learning_rate_of_their_own(tmp_path: Path) -> None:
    content = fit(tmp_path, stage={"epochs": 1, "weights": {"lr": 1e-9, "heads_lr": 0.01}})
    fresh = network(gated=False).state_dict()
    moved = {key: float((content["model"][key] - fresh[key]).abs().max()) for key in fresh}
    assert all((change > 1e-3) == key.startswith("heads") for key, change in moved.items())


def test_training_stops_when_it_has_not_got_better_for_long_enough(tmp_path: Path) -> None:
    content = fit(tmp_path, stage={"epochs": 50, "patience": 2, "weights": {"lr": 1e-9, "weight_decay": 0}})
    position = content["position"]
    assert position["epoch"] == position["best"]["epoch"] + 2 < 50
    best = load_checkpoint(tmp_path / "network" / "ckpt-best.pt")
    assert best["position"]["epoch"] == position["best"]["epoch"]
    assert best["position"]["log"] == position["log"][: best["position"]["epoch"]]


def test_better_is_relative_and_knows_the_direction() -> None:
    row = {"val/kind": 0.5, "val/depth": 1.0}
    assert is_better({"val/kind": 0.4, "val/depth": 0.7}, row, TASKS)
    assert not is_better({"val/kind": 0.4, "val/depth": 0.9}, row, TASKS)
    assert not is_better(row, row, TASKS)
    assert is_better({"val/kind": 0.1, "val/depth": 1.0}, {"val/kind": 0.0, "val/depth": 1.0}, TASKS)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"devices": 0}, r"training\.devices: found 0; allowed is a number from 1 to 4096, or auto for all GPUs$"),
        ({"devices": "two"}, r"training\.devices: found 'two'; allowed is a number from 1 to 4096"),
        ({"precision": "fp8"}, r"training\.precision: found 'fp8'"),
        ({"workers": -1}, r"training\.workers: found -1"),
    ],
)
def test_settings_that_do_not_exist_are_refused(training: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe({}, **training)


@pytest.mark.parametrize("stage", [{"gated": {"patience": 3}}, {"keep": "best"}])
def test_a_budget_is_met_at_the_end_so_training_may_not_end_before(stage: dict[str, Any]) -> None:
    raw = recipe({}).model_dump(mode="json")
    raw["budget"] = {"macs": 0.5}
    raw["training"] |= stage
    with pytest.raises(RecipeError, match=r"a budget is met at the end of training; remove it, or training\.gated\.pa"):
        parse(Recipe, raw, where="test")
