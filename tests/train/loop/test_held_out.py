"""Bi-level training of Safe MTL: α learns from held-out images, everything else from the others."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gate2static.architectures import Architecture, architecture
from gate2static.architectures.smtl import SMTL
from gate2static.balance.look_ahead import unrolled_gradient
from gate2static.data import Splits
from gate2static.errors import ArchitectureError, RecipeError
from gate2static.recipe import ArchitectureRecipe, Recipe, load_recipe, parse
from gate2static.tasks import KINDS, Task
from gate2static.train import sweep
from gate2static.train.loop import loop
from gate2static.train.loop.batches import cycled, epoch_order, held_out
from gate2static.train.loop.checkpoints import load_checkpoint
from gate2static.train.loop.loop import train_network
from gate2static.train.loop.network_run import NetworkRun
from gate2static.train.loop.progress import TrainingProgress
from gate2static.train.loop.step import Training
from gate2static.train.processes.devices import start_fabric

TASKS = tuple(Task(name=name, kind=KINDS["depth"], channels=1) for name in ("near", "far"))
IMAGES = torch.zeros(2, 1, 8, 8)


class Depths(torch.utils.data.Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images with two maps."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(index))
        return image, {"near": image.abs() + 0.1, "far": image.square() + 0.1}


def network(name: str = "smtl", **options: Any) -> Architecture:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    heads = {task.name: nn.Conv2d(4, 1, 1) for task in TASKS}
    made = architecture(name, backbone, heads=heads, example_inputs=(IMAGES,), **options)
    for number, stream in enumerate(made.streams.values()):
        for parameter in stream.parameters():
            parameter.detach().add_(0.1 * number)  # encoders that differ, so that α matters
    return made


def recipe(**training: Any) -> Recipe:
    stage = {"epochs": 1, "batch_size": 8, "weights": {"kind": "sgd", "lr": 0.1, "schedule": {"kind": "constant"}}}
    raw = {
        "name": "held-out",
        "data": {"name": "none"},
        "tasks": [{"name": task.name, "kind": "depth"} for task in TASKS],
        "model": {"name": "none"},
        "training": {"shared": {**stage, **training.pop("shared", {})}, "device": "cpu", **training},
    }
    return parse(Recipe, raw, where="test")


def fit(folder: Path, model: Architecture, one: Recipe, count: int, *, go_on: bool = False) -> dict[str, Any]:
    run = NetworkRun(
        name="smtl",
        kind="architecture",
        model=model,
        tasks=TASKS,
        recipe=one,
        run_dir=folder,
        architecture=ArchitectureRecipe(name="smtl"),
    )
    splits = Splits(train=Depths(count), val=Depths(4), test=Depths(1))
    fabric = start_fabric(one)
    fabric.launch()
    with TrainingProgress(enabled=False, total_cost=1) as progress:
        train_network(run, splits, fabric=fabric, go_on=go_on, progress=progress)
    return load_checkpoint(run.checkpoint)


def loss_of(model: Callable[[Tensor], dict[str, Tensor]], indices: list[int], dtype: Any = torch.float32) -> Tensor:
    images, targets = zip(*(Depths(99)[index] for index in indices), strict=True)
    outputs = model(torch.stack(images).to(dtype))
    losses = [task.loss(outputs[task.name], torch.stack([t[task.name] for t in targets]).to(dtype)) for task in TASKS]
    return torch.stack(losses).sum()


def exact_gradient(model: SMTL, here: list[int], there: list[int], lr: float, dtype: Any = torch.float32) -> Tensor:
    """That of the held-out loss with respect to α, through a step of the weights, by autograd."""
    model = copy.deepcopy(model)
    weights = {name: weight for name, weight in model.named_parameters() if name != "logits"}
    steps = torch.autograd.grad(loss_of(model, here, dtype), list(weights.values()), create_graph=True)
    moved = {name: weight - lr * step for (name, weight), step in zip(weights.items(), steps, strict=True)}
    later = loss_of(lambda images: torch.func.functional_call(model, moved, (images,)), there, dtype)
    return torch.autograd.grad(later, model.logits)[0]


def test_parts_are_disjoint_and_whatever_the_epoch() -> None:
    rest, held = held_out(50, 0.3, seed=1)
    assert sorted(rest + held) == list(range(50))
    assert len(held) == 15
    assert held_out(50, 0.3, seed=1) == (rest, held)
    assert held_out(50, 0.3, seed=2)[1] != held
    assert [len(part) for part in held_out(3, 0.01, seed=0)] == [2, 1]


def test_passes_over_held_out_images_go_on_over_the_ends_of_epochs() -> None:
    held = [3, 14, 15, 92, 65, 35, 89]
    epochs = [cycled(held, 3, seed=0, epoch=epoch, steps=3) for epoch in range(4)]
    steps = [batch for epoch in epochs for batch in epoch]
    # The image that a pass would have alone in its last batch is left out, as in epochs.
    assert all(len(batch) == 3 for batch in steps)
    passes = [sorted(steps[number] + steps[number + 1]) for number in range(0, 12, 2)]
    assert all(len(set(one)) == 6 for one in passes)
    assert len({tuple(one) for one in passes}) > 1


def test_the_unrolled_gradient_is_that_of_autograd_and_of_first_order_at_rate_0() -> None:
    model = network(held_out=0.5, unrolled=True).double().train()
    assert isinstance(model, SMTL)
    weights = [parameter for name, parameter in model.named_parameters() if name != "logits"]
    before = [weight.detach().clone() for weight in weights]

    def gradients(indices: list[int], parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        return list(torch.autograd.grad(loss_of(model, indices, torch.float64), list(parameters)))

    def found(lr: float) -> Tensor:
        here, there = (partial(gradients, indices) for indices in ([0, 1, 2], [3, 4, 5]))
        return unrolled_gradient(model.logits, weights, here, there, lr=lr)

    exact = exact_gradient(model, [0, 1, 2], [3, 4, 5], 0.1, torch.float64)
    assert torch.allclose(found(0.1), exact, rtol=1e-6, atol=0)
    (first_order,) = gradients([3, 4, 5], [model.logits])
    assert torch.allclose(found(0.0), first_order, rtol=1e-12, atol=0)
    assert not torch.allclose(exact, first_order, rtol=0.1)  # it is no no-op
    assert all(map(torch.equal, weights, before))


@pytest.mark.parametrize("unrolled", [False, True])
def test_a_step_trains_alpha_on_what_is_held_out_and_then_the_weights_on_the_rest(
    unrolled: bool, tmp_path: Path
) -> None:
    model = network(held_out=3 / 11, unrolled=unrolled)
    assert isinstance(model, SMTL)
    expected = copy.deepcopy(model).train()
    trained = fit(tmp_path, model, recipe(), 11)["model"]
    rest, held = held_out(11, 3 / 11, seed=0)
    batch = [rest[index] for index in epoch_order(8, 8, seed=0, epoch=0)[0]]
    optimiser = torch.optim.SGD(expected.parameters(), lr=0.1, weight_decay=1e-4)
    expected.logits.grad = exact_gradient(expected, batch, held, lr=0.1 * unrolled)
    optimiser.step()
    optimiser.zero_grad()
    assert float(expected.logits.detach().abs().max()) > 5e-4
    loss_of(expected, batch).backward()
    expected.logits.grad = None
    optimiser.step()
    for name, value in expected.state_dict().items():
        # The finite difference of float32 is a hundredth as far off as the gradient of first order.
        assert torch.allclose(trained[name], value, rtol=1e-5, atol=2e-5 if unrolled else 1e-7), name


def test_choices_are_drawn_once_for_all_looks_at_a_batch_and_for_the_step_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = []
    loss = Training._loss

    def noted(*arguments: Any) -> Any:
        draws.append(torch.get_rng_state())
        return loss(*arguments)

    monkeypatch.setattr(Training, "_loss", noted)
    fit(tmp_path, network("l_smtl", held_out=3 / 11, unrolled=True), recipe(), 11)
    here, there, *looks, step = draws
    assert len(looks) == 2
    assert not torch.equal(here, there)
    assert all(torch.equal(here, other) for other in (*looks, step))


def test_without_held_out_images_alpha_trains_with_everything_else(tmp_path: Path) -> None:
    """The control: the same data, and another α."""
    model = network()
    assert isinstance(model, SMTL)
    expected = copy.deepcopy(model).train()
    trained = fit(tmp_path, model, recipe(shared={"batch_size": 11}), 11)["model"]
    loss_of(expected, epoch_order(11, 11, seed=0, epoch=0)[0]).backward()
    torch.optim.SGD(expected.parameters(), lr=0.1, weight_decay=1e-4).step()
    assert torch.allclose(trained["logits"], expected.logits, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("name", "unrolled"), [("smtl", False), ("l_smtl", True)])
def test_an_interrupted_training_goes_on_bit_for_bit(
    name: str, unrolled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = recipe(shared={"epochs": 2, "batch_size": 4}, checkpoint_steps=1, workers=0)
    whole = fit(tmp_path / "whole", network(name, held_out=0.3, unrolled=unrolled), one, 17)
    save = loop.save
    for kept in (1, 3, 4, 5):
        left = kept

        def killed(*arguments: Any, **named: Any) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            save(*arguments, **named)

        folder = tmp_path / str(kept)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "save", killed)
            with pytest.raises(KeyboardInterrupt):
                fit(folder, network(name, held_out=0.3, unrolled=unrolled), one, 17)
        again = fit(folder, network(name, held_out=0.3, unrolled=unrolled), one, 17, go_on=True)
        assert again["position"] == whole["position"]
        assert all(torch.equal(again["model"][key], value) for key, value in whole["model"].items())


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ArchitectureError, match=r"held_out is 1; allowed is a finite number at least 0 and at most 0\.9"
    ):
        network(held_out=1)
    with pytest.raises(ArchitectureError, match=r"unrolled looks ahead at held-out images, and held_out is 0"):
        network(unrolled=True)
    with pytest.raises(ArchitectureError, match="unrolled is 1; allowed is a bool"):
        network(held_out=0.3, unrolled=1)
    changes = ["sweep=[]", "architectures=[{name: smtl, options: {held_out: 0.2}}]", "training.precision=bf16-mixed"]
    with pytest.raises(RecipeError, match=r"training\.precision: smtl-held_out0\.2 takes gradients"):
        sweep(load_recipe(Path("recipes/digits_tiny.yaml"), changes), tmp_path / "run", progress=False)
