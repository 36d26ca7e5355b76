"""Methods that remember something from step to step: agreement with TorchJD, closed forms, and their state."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torchjd import aggregation

from gate2static.balance.method import GramianMethod, RowsMethod
from gate2static.balance.registry import METHODS, build_method
from gate2static.balance.with_memory.remembering_rows import RememberingRows
from gate2static.balance.with_memory.simplex import Shares, projected
from gate2static.errors import BalanceError

REMEMBERING = sorted(name for name, method in METHODS.items() if issubclass(method, RememberingRows))


def rows(seed: int, tasks: int = 3) -> Tensor:
    return torch.randn(tasks, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.2


def of_gradients(name: str, count: int = 3, **options: Any) -> GramianMethod | RowsMethod:
    method = build_method(name, count, options)
    assert isinstance(method, GramianMethod | RowsMethod)
    return method


def run(method: GramianMethod | RowsMethod, steps: range, losses: Tensor | None = None) -> list[Tensor]:
    """Returns the directions of some steps, each with its own gradients."""
    directions = []
    for step in steps:
        values = torch.ones(method.count, dtype=torch.float64) if losses is None else losses
        weights = method.weights(values)
        directions.append(method.aggregate(weights[:, None] * rows(step, method.count)))
    return directions


def test_modo_is_that_of_torchjd() -> None:
    method = of_gradients("modo", gamma=0.05, rho=0.1)
    other = aggregation.MoDoWeighting(0.05, 0.1)
    assert isinstance(method, GramianMethod)
    for step in range(5):
        g = rows(step)
        torch.testing.assert_close(method.gradient_weights(g @ g.T), other(g @ g.T), rtol=1e-9, atol=1e-9)


def test_averaged_weights_are_those_of_torchjd() -> None:
    class Shortest(aggregation.Weighting):  # type: ignore[type-arg]
        def forward(self, gramian: Tensor, /) -> Tensor:
            mgda = of_gradients("mgda")
            assert isinstance(mgda, GramianMethod)
            return mgda.gradient_weights(gramian)

    other = aggregation.CRMOGMWeighting(Shortest(), alpha=0.9)
    method = of_gradients("cr_mogm")
    assert isinstance(method, GramianMethod)
    for step in range(5):
        g = rows(step)
        torch.testing.assert_close(method.gradient_weights(g @ g.T), other(g @ g.T), rtol=1e-9, atol=1e-9)


def test_modo_comes_to_the_shortest_vector() -> None:
    g = rows(0)
    method = of_gradients("modo", gamma=0.02, rho=0.0)
    for _ in range(2000):
        found = method.aggregate(g)
    torch.testing.assert_close(found, of_gradients("mgda").aggregate(g), rtol=1e-4, atol=1e-4)


def test_dual_balancing_by_hand() -> None:
    method = of_gradients("db_mtl", 2, beta=0.5)
    losses = torch.tensor([2.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(method.weights(losses), 1 / losses)
    first = torch.tensor([[4.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    # u = g / 2: (2, 0) and (0, 1), both of length 2 then.
    torch.testing.assert_close(method.aggregate(first), torch.tensor([2.0, 2.0], dtype=torch.float64))
    second = torch.tensor([[0.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    # u = (1, 0) and (0, 2), both of length 2 then.
    torch.testing.assert_close(method.aggregate(second), torch.tensor([2.0, 2.0], dtype=torch.float64))


def test_corrected_gradients_by_hand() -> None:
    method = of_gradients("moco", 2, beta=0.5, gamma=1.0)
    method.weights(torch.tensor([2.0, 1.0], dtype=torch.float64))
    direction = method.aggregate(torch.tensor([[4.0, 0.0], [0.0, 3.0]], dtype=torch.float64))
    # y = (1, 0) and (0, ½); λ = softmax(½ - ½ · 1, ½ - ½ · ¼).
    shares = torch.tensor([0.0, 0.375], dtype=torch.float64).softmax(0)
    torch.testing.assert_close(direction, torch.stack([shares[0], shares[1] / 2]))


def test_a_task_that_is_far_from_where_it_could_get_is_weighed_more() -> None:
    method = of_gradients("excess_mtl", 2, lr=0.5)
    assert isinstance(method, RowsMethod)
    ones = torch.ones(2, dtype=torch.float64)
    g = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(method.aggregate(g), g.sum(0))
    torch.testing.assert_close(method.weights(ones), ones, msg="the first step is what others are compared with")
    method.aggregate(torch.tensor([[1.0, 0.0], [0.0, 0.1]], dtype=torch.float64))
    # Risks over the first ones: 1 / √2 and 0.01 / √1.01.
    expected = 2 * (0.5 * torch.tensor([2**-0.5, 0.01 / 1.01**0.5], dtype=torch.float64)).softmax(0)
    torch.testing.assert_close(method.weights(ones), expected, rtol=1e-5, atol=1e-5)


def test_excess_risks_are_those_of_the_losses_without_their_weights() -> None:
    """The rows that a step gives are of weighted losses; the weights must not come back into themselves."""
    method = of_gradients("excess_mtl", 3, lr=0.5)
    other = aggregation.ExcessMTLWeighting(robust_step_size=0.5)
    for step in range(4):
        weights = method.weights(torch.ones(3, dtype=torch.float64))
        method.aggregate(weights[:, None] * rows(step))
        if step == 0:  # TorchJD moves its weights in the first step too
            other(rows(step))
            other._weights = torch.full((3,), 1 / 3, dtype=torch.float64)
        else:
            torch.testing.assert_close(
                method.weights(torch.ones(3, dtype=torch.float64)) / 3, other(rows(step)), rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("name", [*REMEMBERING, "cr_mogm", "modo", "gradvac", "nash"])
def test_a_method_goes_on_bit_for_bit_from_its_state(name: str) -> None:
    losses = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    whole = run(of_gradients(name), range(6), losses)
    first = of_gradients(name)
    run(first, range(3), losses)
    second = of_gradients(name)
    second.load_state_dict(first.state_dict())
    for found, expected in zip(run(second, range(3, 6), losses), whole[3:], strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_memory_of_other_tasks_is_refused(name: str) -> None:
    trained = of_gradients(name, 4)
    run(trained, range(1))
    with pytest.raises(RuntimeError, match="size mismatch"):
        of_gradients(name).load_state_dict(trained.state_dict())


def test_dual_balancing_needs_positive_losses() -> None:
    with pytest.raises(BalanceError, match="db_mtl takes logarithms"):
        of_gradients("db_mtl").weights(torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64))


@pytest.mark.parametrize("seed", range(5))
def test_the_projection_is_the_closest_point_of_the_simplex(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(4, generator=generator, dtype=torch.float64)
    point = projected(vector)
    assert float(point.sum()) == pytest.approx(1)
    assert bool((point >= 0).all())
    others = torch.rand(500, 4, generator=generator, dtype=torch.float64)
    others = others / others.sum(1, keepdim=True)
    assert bool(((others - vector).norm(dim=1) >= (point - vector).norm() - 1e-12).all())


def test_absent_tasks_keep_their_share() -> None:
    shares = Shares(3)
    present = torch.tensor([True, False, True])
    torch.testing.assert_close(shares.of(present), torch.tensor([0.5, 0.5], dtype=torch.float64))
    shares.set(present, torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(shares.values, torch.tensor([0.5, 1 / 3, 1 / 6], dtype=torch.float64))
