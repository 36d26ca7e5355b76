"""Methods that combine gradients: closed forms, properties, and agreement with TorchJD in float64."""

import math

import pytest
import torch
from torch import Tensor
from torchjd import aggregation

from gate2static.balance.method import GramianMethod, Method, RowsMethod
from gate2static.balance.registry import METHODS, build_method

OF_GRADIENTS = sorted(name for name, method in METHODS.items() if issubclass(method, GramianMethod | RowsMethod))


def rows(tasks: int = 3, size: int = 20, seed: int = 0) -> Tensor:
    return torch.randn(tasks, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def aggregate(name: str, matrix: Tensor, **options: object) -> Tensor:
    method = build_method(name, len(matrix), options)
    assert isinstance(method, GramianMethod | RowsMethod)
    return method.aggregate(matrix)


def weights_of(method: Method, matrix: Tensor) -> Tensor:
    assert isinstance(method, GramianMethod)
    return method.gradient_weights(matrix @ matrix.T)


def test_the_shortest_vector_between_two_has_a_closed_form() -> None:
    for seed in range(20):
        g = rows(2, 3, seed)
        share = ((g[1] - g[0]) @ g[1] / (g[0] - g[1]).square().sum()).clamp(0, 1)
        torch.testing.assert_close(aggregate("mgda", g), share * g[0] + (1 - share) * g[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tasks", [3, 5, 8])
def test_no_point_of_the_hull_is_shorter_than_that_of_mgda(tasks: int) -> None:
    g = rows(tasks, 6, tasks) + 0.5
    direction = aggregate("mgda", g)
    # The condition of optimality: every gradient has at least the projection ‖d‖ on d.
    assert bool((g @ direction >= direction @ direction - 1e-9).all())
    # TorchJD's steps come close to it from the other side.
    assert float(direction.norm()) <= float(aggregation.MGDA()(g).norm()) + 1e-9


def test_mgda_finds_that_opposite_gradients_cancel_out() -> None:
    g = rows(1)
    assert float(aggregate("mgda", torch.cat([g, -2 * g])).norm()) < 1e-9


@pytest.mark.parametrize("normalise", ["l2", "loss", "loss+"])
def test_mgda_normalises_as_the_official_code_does(normalise: str) -> None:
    g = rows(3)
    losses = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    divisors = {"l2": g.norm(dim=1), "loss": losses, "loss+": losses * g.norm(dim=1)}[normalise]
    method = build_method("mgda", 3, {"normalise": normalise})
    method.weights(losses)
    assert isinstance(method, GramianMethod)
    # The weights of the normalised gradients multiply the losses themselves.
    expected = weights_of(build_method("mgda", 3, {}), g / divisors[:, None])
    torch.testing.assert_close(weights_of(method, g), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_sdmgrad_is_where_the_steps_of_torchjd_end(seed: int) -> None:
    g = rows(seed=seed) + 0.2
    other = aggregation.SDMGradWeighting(lr=0.01, n_iter=3000, lambda_=0.3)
    torch.testing.assert_close(weights_of(build_method("sdmgrad", 3, {}), g), other(g @ g.T), rtol=1e-6, atol=1e-6)


def test_sdmgrad_lies_between_the_shortest_vector_and_the_mean() -> None:
    g = rows()
    torch.testing.assert_close(aggregate("sdmgrad", g, pull=0.0), aggregate("mgda", g))
    torch.testing.assert_close(aggregate("sdmgrad", g, pull=1e6), g.mean(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tasks", [1, 2, 3, 6])
def test_a_bargain_satisfies_its_equation(tasks: int) -> None:
    g = rows(tasks) * torch.logspace(-3, 3, tasks, dtype=torch.float64)[:, None]
    alpha = weights_of(build_method("nash", tasks, {"max_norm": 0.0}), g)
    torch.testing.assert_close(g @ g.T @ alpha, 1 / alpha, rtol=1e-6, atol=0)
    assert float(aggregate("nash", g).norm()) == pytest.approx(1.0)


def test_nash_keeps_its_weights_between_bargains() -> None:
    method = build_method("nash", 3, {"every": 2, "max_norm": 0.0})
    first, second, third = (weights_of(method, rows(seed=seed)) for seed in range(3))
    torch.testing.assert_close(first, second)
    assert not torch.allclose(second, third)


def test_impartial_gradients_have_equal_projections() -> None:
    g = rows(4)
    direction = aggregate("imtl_g", g)
    projections = g @ direction / g.norm(dim=1)
    torch.testing.assert_close(projections, projections[:1].expand(4))
    assert float(weights_of(build_method("imtl_g", 4, {}), g).sum()) == pytest.approx(1)


@pytest.mark.parametrize("scale_mode", ["min", "median", "rmse"])
def test_aligned_gradients_are_orthogonal_and_of_one_length(scale_mode: str) -> None:
    g = rows(3)
    expected = aggregation.AlignedMTL(torch.ones(3, dtype=torch.float64), scale_mode)(g)  # type: ignore[arg-type]
    found = aggregate("aligned", g, scale_mode=scale_mode)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    if scale_mode == "min":
        assert float(found.norm()) == pytest.approx(math.sqrt(3) * float(torch.linalg.svdvals(g)[-1]))


def test_pcgrad_leaves_no_conflict_between_two_tasks() -> None:
    g = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    turned = torch.stack([g[0] - (g[0] @ g[1]) / g[1].square().sum() * g[1], g[1] - (g[1] @ g[0]) * g[0]])
    torch.testing.assert_close(aggregate("pcgrad", g), turned.sum(0))
    assert bool((g @ aggregate("pcgrad", g) >= 0).all())


def test_pcgrad_and_gradvac_agree_with_torchjd() -> None:
    for name, other in (("pcgrad", aggregation.PCGrad()), ("gradvac", aggregation.GradVac())):
        method = build_method(name, 3, {}, seed=5)
        assert isinstance(method, GramianMethod)
        for seed in range(5):
            g = rows(seed=seed) - 0.3
            with torch.random.fork_rng():
                torch.set_rng_state(method._generator.get_state())
                expected = other(g)
            torch.testing.assert_close(method.aggregate(g), expected, rtol=1e-9, atol=1e-9)


def test_config_and_fairgrad_are_those_of_torchjd() -> None:
    torch.testing.assert_close(aggregate("config", rows()), aggregation.ConFIG()(rows()), rtol=1e-9, atol=1e-9)
    expected = aggregation.FairGrad(2.0)(rows())
    torch.testing.assert_close(aggregate("fairgrad", rows(), alpha=2.0), expected, rtol=1e-9, atol=1e-9)


def test_cagrad_without_a_radius_is_the_mean() -> None:
    torch.testing.assert_close(aggregate("cagrad", rows(), c=0.0), rows().mean(0))


@pytest.mark.parametrize("seed", range(6))
def test_cagrad_is_where_the_worst_task_gains_most_within_the_radius(seed: int) -> None:
    g = rows(3, 4, seed)
    mean = g.mean(0)
    direction = aggregate("cagrad", g, c=0.4)
    assert float((direction - mean).norm()) == pytest.approx(0.4 * float(mean.norm()))
    worst = (g @ direction).min()
    others = torch.randn(2000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ball = mean + 0.4 * mean.norm() * others / others.norm(dim=1, keepdim=True)
    assert float((g @ ball.T).min(0).values.max()) <= float(worst) + 1e-6


def test_upgrad_and_dualproj_raise_no_loss() -> None:
    for seed in range(10):
        g = rows(3, 4, seed)
        for name in ("upgrad", "dualproj"):
            assert bool((g @ aggregate(name, g) >= -1e-9).all())
    g = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)  # without conflict nothing is projected
    torch.testing.assert_close(aggregate("upgrad", g), g.mean(0))
    opposed = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    # By hand: (1, 0) becomes (½, ½), (-1, 1) becomes (0, 1).
    torch.testing.assert_close(aggregate("upgrad", opposed), torch.tensor([0.25, 0.75], dtype=torch.float64))


def test_sign_dropout_keeps_the_gradients_of_one_sign() -> None:
    g = torch.tensor([[1.0, -2.0, 3.0, 0.0], [2.0, -1.0, -3.0, 0.0]])
    found = {tuple(aggregate_with(seed, g).tolist()) for seed in range(40)}
    assert found == {(3.0, -3.0, 3.0, 0.0), (3.0, -3.0, -3.0, 0.0)}
    torch.testing.assert_close(aggregate("graddrop", g, leak=1.0), g.sum(0))


def aggregate_with(seed: int, matrix: Tensor) -> Tensor:
    method = build_method("graddrop", len(matrix), {}, seed=seed)
    assert isinstance(method, RowsMethod)
    return method.aggregate(matrix)


def test_sign_dropout_at_features_draws_once_for_the_batch() -> None:
    features = torch.tensor([[1.0], [-1.0]]).repeat(1, 50)  # (samples, elements)
    g = torch.stack([features, -features])  # task 0 wants more activity everywhere, task 1 less
    method = build_method("graddrop", 2, {})
    assert isinstance(method, RowsMethod)
    kept = method.aggregate_features(g, features) * features.sign()
    assert torch.equal(kept[0], kept[1])
    assert set(kept[0].tolist()) == {1.0, -1.0}


@pytest.mark.parametrize("name", OF_GRADIENTS)
def test_identical_gradients_keep_their_direction(name: str) -> None:
    g = rows(1).expand(3, -1)
    direction = aggregate(name, g)
    assert float(torch.cosine_similarity(direction, g[0], dim=0)) == pytest.approx(1.0)


@pytest.mark.parametrize("name", sorted(set(OF_GRADIENTS) - {"trimmed_mean", "krum"}))
def test_a_task_without_gradient_has_no_say(name: str) -> None:
    g = rows(3)
    with_zeros = torch.cat([g, torch.zeros(1, 20, dtype=torch.float64)])
    if name == "rgw":  # its weights add up to 1 over all tasks
        assert bool(aggregate(name, with_zeros).isfinite().all())
        return
    method, other = (build_method(name, count, {}) for count in (3, 4))
    assert isinstance(method, GramianMethod | RowsMethod)
    assert isinstance(other, GramianMethod | RowsMethod)
    if name in ("pcgrad", "gradvac"):  # the order of fewer tasks is drawn otherwise
        pair = g[:2]
        method = build_method(name, 2, {})
        other = build_method(name, 3, {})
        assert isinstance(method, GramianMethod)
        assert isinstance(other, GramianMethod)
        with_zeros = torch.cat([pair, torch.zeros(1, 20, dtype=torch.float64)])
        g = pair
    torch.testing.assert_close(other.aggregate(with_zeros), method.aggregate(g))


@pytest.mark.parametrize("name", OF_GRADIENTS)
def test_no_gradient_at_all_is_no_direction(name: str) -> None:
    assert torch.equal(aggregate(name, torch.zeros(3, 5)), torch.zeros(5))


@pytest.mark.parametrize("name", sorted(set(OF_GRADIENTS) - {"graddrop", "gradvac", "pcgrad", "rgw", "krum"}))
def test_the_order_of_the_tasks_does_not_matter(name: str) -> None:
    g = rows(4)
    torch.testing.assert_close(aggregate(name, g.flip(0)), aggregate(name, g), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("name", ["aligned", "cagrad", "imtl_g", "mgda", "pcgrad", "upgrad", "dualproj", "gradvac"])
def test_very_small_and_large_gradients_change_the_length_alone(name: str, scale: float) -> None:
    if name == "gradvac":
        scale = 1e12  # its guard against division by zero is as absolute as TorchJD's
    torch.testing.assert_close(aggregate(name, rows() * scale) / scale, aggregate(name, rows()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["nash", "cagrad", "upgrad", "aligned", "mgda"])
def test_linearly_dependent_gradients_have_a_direction(name: str) -> None:
    """In float32, whose rounding makes eigenvalues of 0 negative."""
    for seed in range(60):
        g = rows(2, 200, seed).float()
        direction = aggregate(name, torch.cat([g, -(g[:1] + g[1:])]))
        assert bool(direction.isfinite().all())


def test_krum_is_the_mean_where_too_few_tasks_have_a_gradient() -> None:
    g = rows(3)
    g[2] = 0
    torch.testing.assert_close(aggregate("krum", g), g[:2].mean(0))


def test_sign_dropout_of_one_task_at_features_is_plain() -> None:
    g = rows(1, 12).view(1, 3, 4)
    method = build_method("graddrop", 1, {})
    assert isinstance(method, RowsMethod)
    torch.testing.assert_close(method.aggregate_features(g, rows(3, 4, 1)), g[0])
