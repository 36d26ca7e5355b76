"""Training one network: the losses, the log, the two ways it can be stopped, and going on exactly."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor, nn

from gate2static.data import Splits
from gate2static.errors import CheckpointError, TrainingError
from gate2static.gates import GatedModel, gate, sparsity_hinge
from gate2static.recipe import Recipe, parse
from gate2static.tasks import KINDS, Task
from gate2static.train.loop.checkpoints import load_checkpoint
from gate2static.train.loop.log_columns import metric_columns
from gate2static.train.loop.loop import train_network
from gate2static.train.loop.network_run import NetworkRun
from gate2static.train.loop.progress import TrainingProgress
from gate2static.train.loop.random_state import seed_everything
from gate2static.train.processes.devices import start_fabric

Same = Callable[[Any, Any], None]
TASKS = (
    Task(name="kind", kind=KINDS["classification"], channels=3, weight=2, target=0.1),
    Task(name="ink", kind=KINDS["mask"], channels=1, target=0.1),
)


@dataclass
class Blobs(torch.utils.data.Dataset[tuple[Tensor, dict[str, Tensor]]]):
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(index))
        return image, {"kind": (image.mean() * 8).clamp(-1, 1).round().long() + 1, "ink": (image > 0).float()}


class Noisy(nn.Module):
    """Draws from every global generator in training, so that a state that is not restored shows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.heads = nn.ModuleDict({"kind": nn.Linear(4, 3), "ink": nn.Conv2d(4, 1, 1)})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if self.training:
            x = x * (1 + 0.1 * random.random() + 0.1 * float(np.random.rand()))
            x = nn.functional.dropout(x, 0.2)
        x = torch.relu(self.norm(self.conv(x)))
        return {"kind": self.heads["kind"](x.mean((2, 3))), "ink": self.heads["ink"](x)}


def gated_model() -> GatedModel:
    torch.manual_seed(0)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    heads = {"kind": pool, "ink": nn.Conv2d(4, 1, 1)}
    return gate(backbone, tasks=["kind", "ink"], example_inputs=(torch.zeros(2, 1, 8, 8),), heads=heads)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return x + self.conv(x)


def structured_model() -> GatedModel:
    """Gates in groups, one logit for both layers of the residual stream, hard mixing."""
    torch.manual_seed(0)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    return gate(
        Residual(),
        tasks=["kind", "ink"],
        example_inputs=(torch.zeros(2, 1, 8, 8),),
        heads={"kind": pool, "ink": nn.Conv2d(5, 1, 1)},
        group_size=2,
        mixing="hard",
        tie_residual=True,
    )


def noisy_model() -> Noisy:
    torch.manual_seed(0)
    return Noisy()


MODELS: dict[str, Any] = {"shared": noisy_model, "gated": gated_model}


def recipe(gating: dict[str, Any] | None = None, **training: Any) -> Recipe:
    stage = {"epochs": 3, "batch_size": 8, "weights": {"lr": 0.01, "schedule": {"kind": "poly"}}}
    gates = {"lr": 0.1, "momentum": 0.5}
    raw = {
        "name": "loop",
        "data": {"name": "none"},
        "tasks": [{"name": t.name, "kind": "any", "weight": t.weight} for t in TASKS],
        "model": {"name": "none"},
        "gating": gating or {},
        "training": {"shared": stage, "gated": {**stage, "gates": gates}, "device": "cpu", **training},
    }
    return parse(Recipe, raw, where="test")


def stage(folder: Path, kind: Any = "shared", model: nn.Module | None = None, **training: Any) -> NetworkRun:
    return NetworkRun(
        name=kind,
        kind=kind,
        model=model or MODELS[kind](),
        tasks=TASKS,
        recipe=recipe(**training),
        run_dir=folder,
        sparsity_weight=5.0 if kind == "gated" else 0.0,
    )


class StopAfter(TrainingProgress):
    """Interrupts training after a number of steps, as Ctrl-C does."""

    def __init__(self, steps: int) -> None:
        super().__init__(enabled=False, total_cost=0)
        self.steps = steps

    def advance(self, *, cost: float) -> None:
        self.steps -= 1
        if self.steps == 0:
            raise KeyboardInterrupt


SPLITS = Splits(train=Blobs(28), val=Blobs(10), test=Blobs(10))


def fit(one: NetworkRun, *, go_on: bool = False, stop_after: int = -1, fabric: Any = None) -> dict[str, Any]:
    fabric = fabric or start_fabric(one.recipe)
    train_network(one, SPLITS, fabric=fabric, go_on=go_on, progress=StopAfter(stop_after))
    return load_checkpoint(one.checkpoint)


@pytest.mark.parametrize("kind", ["shared", "gated"])
@pytest.mark.parametrize("steps", [1, 3, 4, 6, 11])
def test_going_on_after_an_interruption_equals_never_stopping(
    tmp_path: Path, kind: str, steps: int, assert_same: Same
) -> None:
    whole = fit(stage(tmp_path / "whole", kind, checkpoint_steps=3))
    with pytest.raises(KeyboardInterrupt):
        fit(stage(tmp_path / "cut", kind, checkpoint_steps=3), stop_after=steps)
    seed_everything(5)
    found = fit(stage(tmp_path / "cut", kind, checkpoint_steps=3), go_on=True)
    assert_same(found, whole)
    logs = [(tmp_path / name / kind / "log.csv").read_text() for name in ("whole", "cut")]
    assert logs[0] == logs[1]
    assert logs[0].count("\n") == 4


def goes_on_exactly(one: Callable[[str], NetworkRun], steps: int, assert_same: Same) -> dict[str, Any]:
    """Checks that a training that was interrupted ends as one that was not; returns the checkpoint of the latter."""
    whole = fit(one("whole"))
    with pytest.raises(KeyboardInterrupt):
        fit(one("cut"), stop_after=steps)
    assert_same(fit(one("cut"), go_on=True), whole)
    return whole


@pytest.mark.parametrize("steps", [4, 8])
def test_training_that_settles_gates_goes_on_exactly(tmp_path: Path, steps: int, assert_same: Same) -> None:
    def one(folder: str) -> NetworkRun:
        gated = {"epochs": 3, "batch_size": 8, "settle_steps": 3, "gates": {"lr": 0.1, "momentum": 0.5}}
        return stage(tmp_path / folder, "gated", checkpoint_steps=3, gated=gated)

    whole = goes_on_exactly(one, steps, assert_same)
    settled = [row["settled"] for row in whole["position"]["log"]]
    assert settled == sorted(settled)
    assert settled[-1] > 0.5


@pytest.mark.parametrize("steps", [3, 6])
def test_momentum_and_a_warm_up_go_on_exactly(tmp_path: Path, steps: int, assert_same: Same) -> None:
    """The warm-up ends within the second epoch, so that one interruption is inside it and one is behind its middle."""
    schedule = {"warmup_steps": 7}
    weights = {"kind": "sgd", "lr": 0.1, "momentum": 0.9, "schedule": schedule}

    def one(folder: str) -> NetworkRun:
        shared = {"epochs": 3, "batch_size": 8, "weights": weights}
        return stage(tmp_path / folder, checkpoint_steps=1, shared=shared)

    whole = goes_on_exactly(one, steps, assert_same)
    # Four steps per epoch: the rate of the epochs' last steps.
    assert [row["lr"] for row in whole["position"]["log"]] == pytest.approx([0.1 * 4 / 7, 0.1, 0.1])


@pytest.mark.parametrize("kind", ["sgd", "scaled"])
@pytest.mark.parametrize("steps", [3, 5, 9])
def test_training_that_freezes_gates_goes_on_exactly(tmp_path: Path, kind: str, steps: int, assert_same: Same) -> None:
    def one(folder: str) -> NetworkRun:
        gated = {"epochs": 3, "batch_size": 8, "freeze_at": 0.4, "gates": {"kind": kind}}
        return stage(tmp_path / folder, "gated", checkpoint_steps=1, gated=gated)

    whole = goes_on_exactly(one, steps, assert_same)
    settled = [row["settled"] for row in whole["position"]["log"]]
    assert settled == [0.0, 1.0, 1.0]


def test_frozen_gates_do_not_change_and_weights_do(tmp_path: Path) -> None:
    gated = {"epochs": 2, "batch_size": 8, "freeze_at": 0.0, "gates": {"kind": "scaled"}}
    model = gated_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    # A frozen network needs no decisions but those that it was built with, as `gating.decisions: modules` makes them.
    made = stage(tmp_path, "gated", model, gating={"decisions": "modules"}, gated=gated)
    after = fit(made)["model"]
    assert all(torch.equal(before[name], after[name]) for name in before if name.endswith(("alpha", "beta")))
    assert any(not torch.equal(before[name], after[name]) for name in before if name.endswith("0.weight"))


def test_teachers_pull_the_outputs_towards_theirs(tmp_path: Path) -> None:
    def distance(weight: float) -> float:
        torch.manual_seed(1)
        teacher = Noisy().eval()
        one = replace(
            stage(tmp_path / str(weight), distillation=weight), teachers={task.name: teacher for task in TASKS}
        )
        log = fit(one)["position"]["log"]
        return float(log[-1]["loss/distillation"])

    assert distance(20.0) < distance(0.0) - 0.05


@pytest.mark.parametrize("steps", [4, 6])
def test_tied_gates_with_hard_mixing_go_on_exactly(tmp_path: Path, steps: int, assert_same: Same) -> None:
    def one(folder: str) -> NetworkRun:
        return stage(tmp_path / folder, "gated", structured_model(), checkpoint_steps=3)

    whole = fit(one("whole"))
    with pytest.raises(KeyboardInterrupt):
        fit(one("cut"), stop_after=steps)
    again = one("cut")
    assert_same(fit(again, go_on=True), whole)
    first, second = again.model.gates.values()
    assert first.alpha is second.alpha
    assert first.beta is second.beta
    fresh = structured_model().state_dict()
    assert all(not torch.equal(whole["model"][key], fresh[key]) for key in fresh if key.endswith(("alpha", "beta")))


@pytest.mark.parametrize("forgotten", ["random", "optimisers", "position"])
def test_forgetting_any_part_of_the_state_would_show(tmp_path: Path, forgotten: str, assert_same: Same) -> None:
    fresh = load_checkpoint_of_first_step(tmp_path / "fresh")
    whole = fit(stage(tmp_path / "whole", checkpoint_steps=3))
    with pytest.raises(KeyboardInterrupt):
        fit(stage(tmp_path / "cut", checkpoint_steps=3), stop_after=6)
    path = tmp_path / "cut" / "shared" / "ckpt.pt"
    content = load_checkpoint(path)
    content[forgotten] = fresh[forgotten]
    torch.save(content, path)
    found = fit(stage(tmp_path / "cut", checkpoint_steps=3), go_on=True)
    with pytest.raises(AssertionError):
        assert_same(found["model"], whole["model"])


def load_checkpoint_of_first_step(folder: Path) -> dict[str, Any]:
    one = stage(folder, checkpoint_steps=1)
    with pytest.raises(KeyboardInterrupt):
        fit(one, stop_after=2)
    return load_checkpoint(one.checkpoint)


def test_a_finished_network_is_not_trained_again(tmp_path: Path, assert_same: Same) -> None:
    whole = fit(stage(tmp_path))
    again = stage(tmp_path)
    fit(again, go_on=True, stop_after=1)
    assert_same(dict(again.model.state_dict()), dict(whole["model"]))


def test_the_log_holds_losses_metrics_shares_and_macs(tmp_path: Path) -> None:
    log = fit(stage(tmp_path, "gated"))["position"]["log"]
    assert [row["epoch"] for row in log] == [1, 2, 3]
    row = log[-1]
    assert row["loss/total"] == pytest.approx(2 * row["loss/kind"] + row["loss/ink"] + 5 * row["loss/sparsity"])
    assert set(row) >= {"val/kind", "val/ink", "specific/kind", "specific/ink", "macs"}
    assert log[0]["loss/total"] > row["loss/total"]
    assert row["lr"] == pytest.approx(0.01 * (1 - 11 / 12) ** 0.9)


def test_every_metric_has_a_column_the_main_one_named_for_its_task(tmp_path: Path) -> None:
    row = fit(stage(tmp_path))["position"]["log"][-1]
    assert {key for key in row if key.startswith("val/")} == {"val/kind", "val/ink"}
    assert metric_columns({"kind": {"accuracy": 0.5, "other": 0.1}}, TASKS[:1]) == {
        "val/kind": 0.5,
        "val/kind/other": 0.1,
    }


def test_plain_l1_is_the_hinge_without_targets(tmp_path: Path) -> None:
    hinge = stage(tmp_path / "hinge", "gated")
    l1 = stage(tmp_path / "l1", "gated", gated={"epochs": 1, "batch_size": 8, "sparsity": "l1"})
    assert hinge.hinge_targets == {"kind": 0.1, "ink": 0.1}
    assert l1.hinge_targets == {"kind": 0.0, "ink": 0.0}
    row = fit(l1)["position"]["log"][-1]
    assert row["loss/sparsity"] > 0.4
    means = torch.stack([gate.alpha.detach().sigmoid().mean(1) for gate in l1.model.gates.values()]).mean(0)
    assert sparsity_hinge(l1.model, targets=l1.hinge_targets).item() == pytest.approx(means.mean().item())


def test_the_last_short_batch_weighs_what_it_holds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Module()
    model.bias = nn.Parameter(torch.zeros(1))
    per_image = torch.tensor([float(Blobs(28)[i][1]["ink"].mean()) for i in range(28)])

    def forward(x: Tensor) -> dict[str, Tensor]:
        return {"kind": torch.zeros(len(x), 3) + 0 * model.bias, "ink": (x > 0).float() + 0 * model.bias}

    model.forward = forward  # type: ignore[method-assign]
    row = fit(stage(tmp_path, model=model))["position"]["log"][0]
    on, off = torch.nn.functional.softplus(torch.tensor(-1.0)), torch.nn.functional.softplus(torch.tensor(0.0))
    assert row["loss/ink"] == pytest.approx(float((per_image * on + (1 - per_image) * off).mean()), rel=1e-5)


class Poisoned(Noisy):
    def __init__(self, steps: int, value: float) -> None:
        super().__init__()
        self.left, self.value = steps, value

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        outputs = super().forward(x)
        self.left -= self.training
        return {**outputs, "ink": outputs["ink"] * self.value} if self.left < 0 else outputs


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path, value: float) -> None:
    one = stage(tmp_path, model=Poisoned(5, value))
    with pytest.raises(TrainingError, match=r"shared: the loss of ink is (nan|inf) in epoch 2, step 2; the last check"):
        fit(one)
    content = load_checkpoint(one.checkpoint)
    assert content["position"]["epoch"] == 1
    assert all(bool(value.isfinite().all()) for value in content["model"].values())


def test_a_loss_that_is_not_finite_before_any_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"epoch 1, step 1; no epoch was complete; lower training\.shared\.weights"):
        fit(stage(tmp_path, model=Poisoned(0, float("nan"))))
    assert not list(tmp_path.rglob("*.pt"))


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    one = stage(tmp_path)
    fit(one)
    before = one.checkpoint.read_bytes()
    # The one step's loss is finite; only the update overflows.
    reckless = stage(tmp_path, shared={"epochs": 1, "batch_size": 32, "weights": {"lr": 1e39}})
    with pytest.raises(TrainingError, match=r"conv\.weight is no longer finite in epoch 1; the last checkpoint"):
        fit(reckless)
    assert one.checkpoint.read_bytes() == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shared": {"epochs": 3, "batch_size": 9}}, r"another training\.shared: batch_size: 8 there, 9 here"),
        ({"shared": {"epochs": 3, "batch_size": 8, "weights": {"lr": 0.1}}}, r"weights: lr: 0\.01 there, 0\.1 here"),
    ],
)
def test_going_on_with_another_recipe_names_the_difference(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    fit(stage(tmp_path))
    with pytest.raises(CheckpointError, match=message):
        fit(stage(tmp_path, **changed), go_on=True)


def test_going_on_with_another_model_names_the_keys(tmp_path: Path) -> None:
    fit(stage(tmp_path))
    other = Noisy()
    other.extra = nn.Linear(1, 1)
    with pytest.raises(CheckpointError, match=r"for another model: extra\.weight is missing"):
        fit(stage(tmp_path, model=other), go_on=True)


def float16(scale: float) -> Any:
    """What `precision: 16-mixed` is on a GPU, on the CPU: products in float16, and a loss that is scaled."""
    return Fabric(plugins=MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale)))


def test_float16_backs_off_from_overflow_and_then_trains(tmp_path: Path) -> None:
    options: dict[str, Any] = {"accumulate": 2, "clip_norm": 1.0}
    usual = fit(stage(tmp_path / "usual", "gated", **options))["model"]
    options["precision"] = "16-mixed"
    half = fit(stage(tmp_path / "half", "gated", **options), fabric=float16(2.0**10))["model"]
    assert 1e-6 < max(float((usual[key].double() - half[key].double()).abs().max()) for key in usual) < 0.1
    content = fit(stage(tmp_path / "much", "gated", **options), fabric=float16(1e8))
    assert content["precision"]["scale"] < 1e8
    assert all(value.isfinite().all() for value in content["model"].values())


def test_float16_goes_on_bit_for_bit(tmp_path: Path, assert_same: Same) -> None:
    options = {"precision": "16-mixed", "checkpoint_steps": 3, "accumulate": 2, "clip_norm": 1.0}
    whole = fit(stage(tmp_path / "whole", "gated", **options), fabric=float16(1e8))
    with pytest.raises(KeyboardInterrupt):
        fit(stage(tmp_path / "cut", "gated", **options), stop_after=4, fabric=float16(1e8))
    found = fit(stage(tmp_path / "cut", "gated", **options), go_on=True, fabric=float16(7.0))
    assert_same(found, whole)
