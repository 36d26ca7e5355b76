"""The optimisers of weights and gates, and their schedules."""

from typing import Literal

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.optim import SGD, Adam

from gate2static.architectures import architecture
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


@pytest.mark.parametrize(("kind", "rate", "factor"), [("sgd", None, 100), ("adam", None, 1), ("adam", 3.0, 3)])
def test_what_nddr_mixes_with_trains_at_a_rate_of_its_own(
    kind: Literal["adam", "sgd"], rate: float | None, factor: float
) -> None:
    network = architecture(
        "nddr",
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)),
        heads={task: nn.Conv2d(4, 1, 1) for task in "ab"},
        example_inputs=(torch.zeros(2, 1, 8, 8),),
        places=["0"],
        rate=rate,
    )
    schedule = ScheduleRecipe(kind="constant")
    settings = NetworkRecipe(weights=WeightOptimiserRecipe(kind=kind, lr=0.01, heads_lr=0.5, schedule=schedule))
    optimisers = build_optimisers(network, settings)
    set_learning_rates(optimisers, settings, epoch=0, progress=0.0, steps=0)
    rates = {id(p): group["lr"] for group in optimisers["weights"].param_groups for p in group["params"]}
    assert len(rates) == len(list(network.parameters()))
    assert {rates[id(p)] for p in network.get_submodule("mixers").parameters()} == {factor * 0.01}
    assert {rates[id(p)] for p in network.heads.parameters()} == {0.5}
    assert {rates[id(p)] for p in network.streams.parameters()} == {0.01}


def test_an_ordinary_network_has_one_optimiser() -> None:
    assert list(build_optimisers(nn.Linear(2, 2), NetworkRecipe())) == ["weights"]


def test_the_weights_train_on_sgd_with_momentum_where_the_recipe_says_so() -> None:
    weights = WeightOptimiserRecipe(kind="sgd", lr=0.1, momentum=0.5, weight_decay=0.0)
    linear = nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(linear.weight)
    optimiser = build_optimisers(linear, NetworkRecipe(weights=weights))["weights"]
    assert isinstance(optimiser, SGD)
    for _ in range(2):
        optimiser.zero_grad()
        linear(torch.ones(1, 1)).sum().backward()
        optimiser.step()
    # The second step is 0.1 · (1 + 0.5).
    assert linear.weight.item() == pytest.approx(-0.25)


def test_momentum_is_an_option_of_sgd_alone() -> None:
    with pytest.raises(ValidationError, match="momentum is an option of kind: sgd, found kind: adam; write kind: sgd"):
        WeightOptimiserRecipe(momentum=0.9)


@pytest.mark.parametrize("kind", ["constant", "step", "poly"])
def test_a_warm_up_rises_linearly_to_what_the_schedule_says(kind: Literal["constant", "step", "poly"]) -> None:
    plain = ScheduleRecipe(kind=kind, step_epochs=1)
    warm = ScheduleRecipe(kind=kind, step_epochs=1, warmup_steps=4)
    shares = []
    for steps in range(6):
        position = {"epoch": steps // 2, "progress": steps / 6, "steps": steps}
        shares.append(factor(warm, **position) / factor(plain, **position))  # type: ignore[arg-type]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_step_falls_by_a_third_every_twenty_epochs() -> None:
    schedule = ScheduleRecipe(kind="step")
    found = [factor(schedule, epoch=epoch, progress=0.0, steps=0) for epoch in (0, 19, 20, 40)]
    assert found == pytest.approx([1, 1, 1 / 3, 1 / 9])


def test_poly_falls_with_the_power_of_what_is_left() -> None:
    schedule = ScheduleRecipe(kind="poly")
    found = [factor(schedule, epoch=0, progress=progress, steps=0) for progress in (0.0, 0.5, 0.99)]
    assert found == pytest.approx([1, 0.5**0.9, 0.01**0.9])


def test_each_optimiser_follows_its_own_schedule() -> None:
    schedule = ScheduleRecipe(kind="poly", power=1.0)
    settings = GatedNetworkRecipe(weights=WeightOptimiserRecipe(lr=0.2, schedule=schedule))
    optimisers = {"weights": Adam([torch.zeros(1)]), "gates": SGD([torch.zeros(1)])}
    set_learning_rates(optimisers, settings, epoch=0, progress=0.75, steps=3)
    assert optimisers["weights"].param_groups[0]["lr"] == pytest.approx(0.05)
    assert optimisers["gates"].param_groups[0]["lr"] == pytest.approx(0.1)
