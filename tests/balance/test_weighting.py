"""Methods that weigh losses: by hand, and against TorchJD."""

import math

import pytest
import torch
from torch import Tensor
from torchjd import scalarization

from gate2static.balance.registry import build_method
from gate2static.balance.weighting.auto_lambda import AutoLambda
from gate2static.balance.weighting.gradnorm import GradNorm


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_random_weights_are_new_and_add_up_to_one() -> None:
    method = build_method("rlw", 4, {})
    first, second = method.weights(torch.ones(4)), method.weights(torch.ones(4))
    assert float(first.sum()) == pytest.approx(1)
    assert not torch.equal(first, second)


def test_uncertainty_descends_its_own_loss() -> None:
    method = build_method("uncertainty", 2, {"lr": 0.1})
    losses = numbers(4.0, 0.25)
    torch.testing.assert_close(method.weights(losses), numbers(0.5, 0.5))
    for _ in range(2000):
        method.update(losses)
    # At the minimum of ½ e^(-s) L + ½ s, e^s is L.
    torch.testing.assert_close(method.weights(losses), 0.5 / losses, rtol=1e-3, atol=1e-3)


def test_imtl_l_brings_every_loss_to_one() -> None:
    method = build_method("imtl_l", 2, {"lr": 0.1})
    losses = numbers(4.0, 0.25)
    for _ in range(2000):
        method.update(losses)
    torch.testing.assert_close(method.weights(losses) * losses, numbers(1.0, 1.0), rtol=1e-3, atol=1e-3)


def test_dwa_weighs_by_the_last_two_epochs() -> None:
    method = build_method("dwa", 2, {})
    for epoch_losses in ([(3.0, 4.0), (1.0, 4.0)], [(1.0, 4.0)]):
        torch.testing.assert_close(method.weights(numbers(1, 1)), numbers(1, 1))
        for losses in epoch_losses:
            method.update(numbers(*losses))
        method.end_epoch()
    ratios = [math.exp(1 / 2 / 2), math.exp(4 / 4 / 2)]  # mean losses (2, 4), then (1, 4); τ = 2
    expected = numbers(*(2 * ratio / sum(ratios) for ratio in ratios))
    torch.testing.assert_close(method.weights(numbers(1, 1)), expected)


def test_famo_trains_as_torchjd_does() -> None:
    method = build_method("famo", 3, {})
    other = scalarization.FAMO(3).double()
    for step in range(20):
        losses = torch.rand(3, dtype=torch.float64, generator=torch.Generator().manual_seed(step)) + 0.1
        values = losses.clone().requires_grad_()
        other(values).backward()
        assert values.grad is not None
        torch.testing.assert_close(method.weights(losses), values.grad, rtol=1e-6, atol=1e-6)
        method.update(losses)
        after = losses * numbers(0.9, 0.99, 0.7)
        method.look_back(after)
        other.update(after)


def test_geometric_mean_weighs_by_the_inverse() -> None:
    losses = numbers(1.0, 2.0, 4.0)
    weights = build_method("geometric_mean", 3, {}).weights(losses)
    torch.testing.assert_close(weights, losses.log().mean().exp() / 3 / losses)


def test_smooth_tchebycheff_comes_close_to_the_maximum() -> None:
    weights = build_method("stch", 3, {"mu": 1e-3}).weights(numbers(1.0, 2.0, 1.5))
    assert int(weights.argmax()) == 1
    assert float(weights[[0, 2]].max()) < 1e-6


def test_gradnorm_makes_norms_equal() -> None:
    method = build_method("gradnorm", 2, {"lr": 0.05, "alpha": 0.0})
    assert isinstance(method, GradNorm)
    losses, norms = numbers(1.0, 1.0), numbers(1.0, 3.0)
    for _ in range(500):
        method.update_by_norms(losses, norms)
    # w_1 = 3 w_2 with w_1 + w_2 = 2
    torch.testing.assert_close(method.weights(losses), numbers(1.5, 0.5), rtol=0.1, atol=0.05)


def test_gradnorm_favours_what_fell_least() -> None:
    method = build_method("gradnorm", 2, {"lr": 0.05})
    assert isinstance(method, GradNorm)
    for losses in (numbers(1.0, 1.0), *[numbers(1.0, 0.5)] * 20):
        method.update_by_norms(losses, numbers(1.0, 1.0))
    first, second = method.weights(losses).tolist()
    assert first > 1 > second
    assert first + second == pytest.approx(2)


def test_auto_lambda_starts_where_the_official_code_does() -> None:
    method = build_method("auto_lambda", 2, {})
    assert isinstance(method, AutoLambda)
    torch.testing.assert_close(method.weights(torch.ones(2)), torch.full((2,), 0.1))
