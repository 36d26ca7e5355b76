"""Training with a method: it can be stopped anywhere, and what does not fit is refused before anything is trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gate2static.balance.registry import METHODS
from gate2static.errors import RecipeError
from gate2static.models import MultiTaskNetwork
from gate2static.recipe import Recipe, load_recipe
from gate2static.train import sweep, train
from gate2static.train.loop.balanced import check_recipe
from gate2static.train.loop.network_run import NetworkRun
from tests.train.loop.test_loop import Same, fit, gated_model, goes_on_exactly, stage

STAGE: dict[str, Any] = {"epochs": 3, "batch_size": 8, "weights": {"lr": 0.01, "schedule": {"kind": "poly"}}}
# Two tasks are too few for these.
NAMES = sorted(set(METHODS) - {"krum", "trimmed_mean"})
SHARED = [(name, at) for name in NAMES for at in (METHODS[name].levels or (None,))]


class Dropping(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.2, self.training)


def shared_model() -> MultiTaskNetwork:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), Dropping())
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return MultiTaskNetwork(backbone, {"kind": pool, "ink": nn.Conv2d(4, 1, 1)})


@pytest.mark.parametrize(("name", "at"), SHARED)
def test_every_method_goes_on_to_the_bit(tmp_path: Path, name: str, at: str | None, assert_same: Same) -> None:
    def one(folder: str) -> NetworkRun:
        shared = {**STAGE, "balancing": {"method": name, "at": at}}
        return stage(tmp_path / folder, "shared", shared_model(), checkpoint_steps=3, conflict_steps=2, shared=shared)

    goes_on_exactly(one, 8, assert_same)
    logs = [(tmp_path / folder / "shared" / "conflict.csv").read_text() for folder in ("whole", "cut")]
    assert logs[0] == logs[1]
    assert logs[0].count("\n") == 7  # 12 steps, every second
    assert "fd_where_used" in logs[0].splitlines()[0]


@pytest.mark.parametrize("name", ["pcgrad", "gradvac", "famo", "cosreg", "auto_lambda", "gradnorm", "graddrop"])
def test_gated_networks_train_with_methods_and_go_on_to_the_bit(tmp_path: Path, name: str, assert_same: Same) -> None:
    def one(folder: str) -> NetworkRun:
        gated = {**STAGE, "balancing": name, "settle_steps": None if name == "cosreg" else 3}
        return stage(tmp_path / folder, "gated", gated_model(), checkpoint_steps=3, conflict_steps=3, gated=gated)

    whole = goes_on_exactly(one, 8, assert_same)
    assert whole["position"]["log"][-1].keys() >= {"scale", "loss/kind", "specific/ink"}


def test_a_method_changes_the_training(tmp_path: Path) -> None:
    found = []
    for balancing in ("sum", "mgda"):
        shared = {**STAGE, "balancing": balancing}
        found.append(fit(stage(tmp_path / balancing, "shared", shared_model(), shared=shared))["model"])
    assert not torch.equal(found[0]["backbone.0.weight"], found[1]["backbone.0.weight"])


def test_measuring_changes_nothing(tmp_path: Path, assert_same: Same) -> None:
    found = []
    for every in (None, 1):
        one = stage(tmp_path / str(every), "shared", shared_model(), conflict_steps=every)
        found.append(fit(one)["model"])
    assert_same(found[0], found[1])


def test_the_log_has_the_weights_and_the_scale_of_an_epoch(tmp_path: Path) -> None:
    shared = {**STAGE, "balancing": "rlw"}
    log = fit(stage(tmp_path, "shared", shared_model(), shared=shared))["position"]["log"]
    for row in log:
        assert row["weight/kind"] + row["weight/ink"] == pytest.approx(1)
        assert row["scale"] == pytest.approx(0.5)


def test_parts_of_a_batch_train_as_the_batch_does(tmp_path: Path) -> None:
    found = []
    for parts in (1, 2):
        model = shared_model()
        model.backbone[1] = nn.Identity()  # type: ignore[operator]
        model.backbone[3] = nn.Identity()  # type: ignore[operator]
        shared = {**STAGE, "balancing": "mgda"}
        found.append(fit(stage(tmp_path / str(parts), "shared", model, shared=shared, accumulate=parts))["model"])
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_sweep_over_methods_prunes_and_measures_every_row(small: Recipe, tmp_path: Path) -> None:
    changes = ["sweep=[]", "sweep_balancing=[pcgrad, {method: mgda, at: features}]"]
    plain = small.model_dump(mode="json")
    recipe = load_recipe(Path("recipes/digits_tiny.yaml"), [*_sets(plain), *changes])
    result = sweep(recipe, tmp_path, progress=False)
    assert [row.name for row in result.rows] == ["separate", "shared", "shared-pcgrad", "shared-mgda-features"]
    costs = {row.name: row.macs for row in result.rows if row.kind == "shared"}
    assert len(set(costs.values())) == 1
    again = sweep(recipe, tmp_path, resume=True, progress=False)
    assert again == result


def _sets(plain: dict[str, Any]) -> list[str]:
    training = plain["training"]
    kept = {kind: {"epochs": 1, "batch_size": training[kind]["batch_size"]} for kind in ("single", "shared", "gated")}
    return [
        "data.options={train_images: 48, val_images: 10, test_images: 20}",
        "tasks=[{name: left, kind: classification}, {name: mask, kind: mask}]",
        *(f"training.{kind}={{epochs: 1, batch_size: {values['batch_size']}}}" for kind, values in kept.items()),
    ]


REFUSED = [
    (
        "training.shared.balancing=pcgrat",
        r"training\.shared\.balancing: there is no method 'pcgrat'; did you mean pcgrad",
    ),
    ("training.shared.balancing={method: mgda, options: {c: 0.4}}", "mgda has no option 'c'"),
    ("training.shared.balancing={method: cagrad, options: {c: large}}", "c of cagrad is 'large'"),
    ("training.shared.balancing={method: rlw, at: features}", "rlw weighs losses and needs no gradients; leave `at`"),
    ("training.shared.balancing={method: moco, at: features}", "moco remembers gradients, and features belong to"),
    ("training.gated.balancing={method: mgda, at: features}", r"training\.gated\.balancing\.at: features are a level"),
    ("sweep_balancing=[mgda, {method: nash, options: {max_norm: -1}}]", r"sweep_balancing\.1: max_norm of nash is -1"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_does_not_fit_is_refused_before_training(change: str, message: str, tmp_path: Path) -> None:
    recipe = load_recipe(Path("recipes/digits_tiny.yaml"), [change])
    with pytest.raises(RecipeError, match=message) as error:
        train(recipe, tmp_path / "run", progress=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["training.shared.balancing={method: mgda, at: features}", "training.accumulate=2"], "needs the whole batch"),
        (["training.shared.balancing=famo", "training.accumulate=2"], "needs the whole batch"),
        (["training.shared.balancing=mgda", "training.compile=true"], "once per task; set compile: false"),
        (["training.gated.balancing=cosreg", "training.gated.settle_steps=5"], "networks with settled gates have not"),
        (["training.shared.balancing=cosreg", "training.precision=bf16-mixed"], "use 32-true"),
        (["training.conflict_steps=5", "training.precision=bf16-mixed"], "needs gradients by task"),
        (["training.shared.balancing=mgda", "tasks=[{name: left, kind: classification}]"], "there is one; remove it"),
        (["training.conflict_steps=5", "tasks=[{name: left, kind: classification}]"], "there is one; remove it"),
    ],
)
def test_combinations_that_do_not_work_are_refused(changes: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_recipe(load_recipe(Path("recipes/digits_tiny.yaml"), changes))


def test_what_works_in_one_process_alone_is_refused_in_two() -> None:
    for balancing in ("cosreg", "{method: config, at: features}"):
        recipe = load_recipe(Path("recipes/digits_tiny.yaml"), [f"training.shared.balancing={balancing}"])
        check_recipe(recipe)
        with pytest.raises(RecipeError, match="in one process only"):
            check_recipe(recipe, processes=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("sweep_balancing=[mgda, mgda]", "must hold different entries, found mgda, mgda"),
        ("sweep=[]", "sweep, sweep_balancing and architectures are empty"),
        ("training.single.balancing=mgda", r"unknown key training\.single\.balancing"),
        ("training.shared.balancing={method: mgda, at: layers}", r"training\.shared\.balancing\.at"),
    ],
)
def test_wrong_values_are_named(change: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(Path("recipes/digits_tiny.yaml"), [change])


def test_half_precision_trains_with_methods_at_both_levels(tmp_path: Path) -> None:
    for at in ("parameters", "features"):
        shared = {**STAGE, "balancing": {"method": "mgda", "at": at}}
        one = stage(tmp_path / at, "shared", shared_model(), shared=shared, precision="bf16-mixed")
        log = fit(one)["position"]["log"]
        assert log[-1]["loss/total"] < log[0]["loss/total"]
