"""The optimisers of weights and gates, and their schedules."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from gate2static.gates import gate, gate_parameters, weight_parameters
from gate2static.recipe import GatedNetworkRecipe, NetworkRecipe, ScheduleRecipe, WeightOptimiserRecipe
from gate2static.train.loop.optimisers import build_optimisers, factor, set_learning_rates


def test_a_gated_network_trains_every_parameter_once_on_two_optimisers() -> None:
    gated = gate(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4)),
        tasks=["a", "b"],
        example_inputs=(torch.zeros(2, 1, 4, 4),),
        heads={"a": nn.Linear(4, 2), "b": nn.Linear(4, 1)},
    )
    optimisers = build_optimisers(gated, GatedNetworkRecipe())
    assert isinstance(optimisers["weights"], Adam)
    assert isinstance(optimisers["gates"], SGD)
    held = {name: [id(p) for g in o.param_groups for p in g["params"]] for name, o in optimisers.items()}
    assert held["weights"] == [id(p) for p in weight_parameters(gated)]
    assert held["gates"] == [id(p) for p in gate_parameters(gated)]
    assert optimisers["gates"].param_groups[0]["lr"] == 0.1


def test_an_ordinary_network_has_one_optimiser() -> None:
    assert list(build_optimisers(nn.Linear(2, 2), NetworkRecipe())) == ["weights"]


def test_weights_can_be_trained_by_sgd() -> None:
    settings = NetworkRecipe(weights=WeightOptimiserRecipe(kind="sgd", lr=0.1, momentum=0.8, weight_decay=0.01))
    optimiser = build_optimisers(nn.Linear(2, 2), settings)["weights"]
    assert isinstance(optimiser, SGD)
    (group,) = optimiser.param_groups
    assert {key: group[key] for key in ("lr", "momentum", "weight_decay")} == {
        "lr": 0.1,
        "momentum": 0.8,
        "weight_decay": 0.01,
    }


def test_step_falls_by_a_third_every_twenty_epochs() -> None:
    schedule = ScheduleRecipe(kind="step")
    found = [factor(schedule, epoch=epoch, progress=0.0) for epoch in (0, 19, 20, 40)]
    assert found == pytest.approx([1, 1, 1 / 3, 1 / 9])


def test_poly_falls_with_the_power_of_what_is_left() -> None:
    schedule = ScheduleRecipe(kind="poly")
    found = [factor(schedule, epoch=0, progress=progress) for progress in (0.0, 0.5, 0.99)]
    assert found == pytest.approx([1, 0.5**0.9, 0.01**0.9])


def test_each_optimiser_follows_its_own_schedule() -> None:
    schedule = ScheduleRecipe(kind="poly", power=1.0)
    settings = GatedNetworkRecipe(weights=WeightOptimiserRecipe(lr=0.2, schedule=schedule))
    optimisers = {"weights": Adam([torch.zeros(1)]), "gates": SGD([torch.zeros(1)])}
    set_learning_rates(optimisers, settings, epoch=0, progress=0.75)
    assert optimisers["weights"].param_groups[0]["lr"] == pytest.approx(0.05)
    assert optimisers["gates"].param_groups[0]["lr"] == pytest.approx(0.1)
