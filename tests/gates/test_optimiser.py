"""The gates' optimiser: the unit of λ, targets as shares of channels, and that it is an optimiser like others."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gate2static.errors import GateError
from gate2static.gates import GatedModel, GateOptimiser, gate, optimisers, set_gates

LAMBDAS = (0.01, 0.1, 0.3, 1.0)


def make(gate_init: float = 0.2, **options: float) -> GatedModel:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 32, 1))
    return gate(
        backbone,
        tasks=["a", "b"],
        example_inputs=(torch.randn(2, 3, 2, 2),),
        heads={"a": nn.Identity(), "b": nn.Identity()},
        gate_init=gate_init,
        gate_init_std=0.0,
        **options,
    )


def private(gated: GatedModel) -> Tensor:
    """The share of channels that each task has of its own."""
    return torch.cat([gate_.decisions() for gate_ in gated.gates.values()], dim=1).double().mean(1)


def search(gated: GatedModel, *, steps: int, sparsity_weight: float, scale: float = 1.0, signal: float = 0.1) -> Tensor:
    """Moves gates by noise with a small mean, as gradients of tasks are, and returns the private share per task."""
    optimiser = GateOptimiser(gated, steps=steps, sparsity_weight=sparsity_weight)
    generator = torch.Generator().manual_seed(0)
    alphas = [gate_.alpha for gate_ in gated.gates.values()]
    means = [signal * torch.randn(alpha.shape, generator=generator) for alpha in alphas]
    for _ in range(steps):
        for alpha, mean in zip(alphas, means, strict=True):
            alpha.grad = scale * (torch.randn(alpha.shape, generator=generator) + mean)
        optimiser.step()
    return private(gated)


@pytest.mark.parametrize(
    ("steps", "weights"), [(300, LAMBDAS), pytest.param(30_000, (LAMBDAS[0], LAMBDAS[-1]), marks=pytest.mark.slow)]
)
def test_one_grid_of_lambda_spans_everything_at_any_length(steps: int, weights: tuple[float, ...]) -> None:
    shares = [float(search(make(), steps=steps, sparsity_weight=weight).mean()) for weight in weights]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] >= 0.95 - 0.02
    assert shares[-1] <= 0.05


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e3])
def test_the_size_of_the_losses_does_not_matter(scale: float) -> None:
    expected = search(make(), steps=50, sparsity_weight=0.3)
    assert torch.equal(search(make(), steps=50, sparsity_weight=0.3, scale=scale), expected)


@pytest.mark.parametrize("target", [0.0, 0.25, 0.5])
def test_a_target_is_a_share_of_channels(target: float) -> None:
    """The paper's hinge stops at a mean of σ(α), which is no share of anything that a user sees."""
    gated = make(gate_init=0.05)
    optimiser = GateOptimiser(gated, steps=40, sparsity_weight=1.0, targets={"a": target, "b": 1.0})
    for _ in range(40):
        for gate_ in gated.gates.values():
            gate_.alpha.grad = torch.zeros_like(gate_.alpha)
        optimiser.step()
    assert private(gated).tolist() == pytest.approx([target, 1.0], abs=1 / 48)


def test_a_tasks_own_gradient_may_close_gates_below_the_target() -> None:
    gated = make(gate_init=0.05)
    optimiser = GateOptimiser(gated, steps=5, sparsity_weight=0.0, targets=1.0)
    for _ in range(5):
        for gate_ in gated.gates.values():
            gate_.alpha.grad = torch.ones_like(gate_.alpha)
        optimiser.step()
    assert private(gated).tolist() == [0.0, 0.0]


def test_what_the_tasks_close_is_not_closed_by_sparsity_once_more() -> None:
    """The excess over τ was taken before the tasks' step, so that both together closed more than the target."""
    gated = make(gate_init=0.05)
    optimiser = GateOptimiser(gated, steps=1, sparsity_weight=1.0, targets=0.5)
    for gate_ in gated.gates.values():
        gate_.alpha.grad = torch.zeros_like(gate_.alpha)
        gate_.alpha.grad[:, ::3] = 1.0
    optimiser.step()
    assert private(gated).tolist() == pytest.approx([0.5, 0.5], abs=1 / 48)


def test_weights_belong_to_tasks_in_any_order() -> None:
    gated = make(gate_init=0.05)
    optimiser = GateOptimiser(gated, steps=1)
    optimiser.sparsity_weights = {"b": 1.0, "a": 0.0}
    for gate_ in gated.gates.values():
        gate_.alpha.grad = torch.zeros_like(gate_.alpha)
    optimiser.step()
    assert private(gated).tolist() == [1.0, 0.0]


def test_frozen_gates_stay() -> None:
    gated = make()
    for gate_ in gated.gates.values():
        gate_.alpha.requires_grad_(False)
    before = [gate_.alpha.clone() for gate_ in gated.gates.values()]
    optimiser = GateOptimiser(gated, steps=10, sparsity_weight=1.0)
    gated(torch.randn(2, 3, 2, 2))["a"].sum().backward()
    optimiser.step()
    assert all(torch.equal(a, gate_.alpha) for a, gate_ in zip(before, gated.gates.values(), strict=True))


def test_a_restored_optimiser_goes_on_bit_for_bit() -> None:
    def steps(gated: GatedModel, optimiser: GateOptimiser, numbers: range) -> None:
        for number in numbers:
            generator = torch.Generator().manual_seed(number)
            for gate_ in gated.gates.values():
                for logits in gate_.parameters():
                    logits.grad = torch.randn(logits.shape, generator=generator)
            optimiser.step()

    whole = make()
    steps(whole, GateOptimiser(whole, steps=20), range(20))
    half = make()
    optimiser = GateOptimiser(half, steps=20)
    steps(half, optimiser, range(10))
    resumed = make()
    resumed.load_state_dict(half.state_dict())
    restored = GateOptimiser(resumed, steps=20)
    restored.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    steps(resumed, restored, range(10, 20))
    for expected, found in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, found)


def test_the_two_optimisers_train_a_model_together() -> None:
    torch.manual_seed(0)
    gated = make(gate_init=0.1)
    both = optimisers(gated, lr=1e-2, steps=30, sparsity_weight=1.0, targets=0.25)
    x = torch.randn(4, 3, 2, 2)
    losses = []
    for _ in range(30):
        outputs = gated(x)
        loss = (outputs["a"] - 1).square().mean() + (outputs["b"] + 1).square().mean()
        losses.append(loss.item())
        both.zero_grad()
        loss.backward()
        both.step()
    assert losses[-1] < losses[0]
    assert (private(gated) < 0.5).all()


@pytest.mark.parametrize(
    ("make_optimiser", "message"),
    [
        (lambda g: GateOptimiser(g, steps=0), "steps is 0; allowed is a whole number from 1"),
        (lambda g: GateOptimiser(g, steps=5, sparsity_weight=-1), "sparsity_weight is -1; allowed is a finite"),
        (lambda g: GateOptimiser(g, steps=5, targets=1.5), "the target of a is 1.5"),
        (lambda g: GateOptimiser(g, steps=5, targets={"a": 0.5}), "targets are given for .'a'., the model's tasks are"),
        (lambda g: GateOptimiser(nn.Linear(2, 2), steps=5), "the model is a Linear"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda g: optimisers(g, lr=-1, steps=5), "lr is -1"),
    ],
)
def test_wrong_arguments_are_refused(make_optimiser: Callable[[GatedModel], object], message: str) -> None:
    with pytest.raises(GateError, match=message):
        make_optimiser(make())


def test_tied_gates_move_once() -> None:
    gated = make()
    first, second = gated.gates.values()
    small = gate(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)),
        tasks=["a"],
        example_inputs=(torch.randn(1, 3, 2, 2),),
        heads={"a": nn.Identity()},
        gate_init_std=0.0,
    )
    first, second = small.gates.values()
    second.alpha = first.alpha
    optimiser = GateOptimiser(small, steps=10, sparsity_weight=1.0)
    first.alpha.grad = torch.zeros_like(first.alpha)
    optimiser.step()
    assert first.alpha.flatten().tolist() == pytest.approx([0.05 - 0.1] * 4)
    set_gates(small, True)
