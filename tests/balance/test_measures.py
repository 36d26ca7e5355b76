"""Measures of conflict and of rankings, by hand."""

import math
from typing import Any

import pytest
import torch
from torch import nn

import gate2static as g2s
from gate2static.balance.conflict_measures import disentanglement, similarities
from gate2static.errors import BalanceError


def test_gradients_of_one_direction_and_length_are_similar() -> None:
    assert similarities(torch.ones(3, 3, dtype=torch.float64)) == pytest.approx((1.0, 1.0))


def test_direction_and_magnitude_by_hand() -> None:
    rows = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    gds, gms = similarities(rows @ rows.T)
    assert gds == pytest.approx(-1 / 3)  # cosines 0, -1 and 0
    assert gms == pytest.approx((0.6 + 0.6 + 1.0) / 3)  # 2·3·1 / (9 + 1), twice, and equal lengths


def test_magnitude_similarity_is_bounded_unlike_the_printed_equation() -> None:
    rows = torch.tensor([[100.0], [1.0]], dtype=torch.float64)
    assert 0 <= similarities(rows @ rows.T)[1] <= 1


def test_a_task_without_gradient_is_left_out_of_similarities() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    assert similarities(rows @ rows.T) == pytest.approx((1.0, 1.0))
    assert similarities(torch.zeros(2, 2, dtype=torch.float64)) == (0.0, 0.0)


def test_the_readings_of_disentanglement_differ_on_dead_elements() -> None:
    magnitudes = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])  # one's own, shared, dead, dead
    whole, used, smoothed = disentanglement(magnitudes, temperature=1e-3)
    assert float(whole) == pytest.approx(math.log(2) / 4, abs=1e-4)
    assert float(used) == pytest.approx(math.log(2) / 2, abs=1e-4)
    assert smoothed is not None
    assert float(smoothed) == pytest.approx(3 * math.log(2) / 4, abs=1e-4)
    # A factor of all losses changes neither of the first two.
    assert float(disentanglement(magnitudes * 1e-6)[0]) == pytest.approx(float(whole), abs=1e-4)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(3, 2, bias=False)


def test_conflict_of_a_network_by_hand() -> None:
    net = Two()
    z = net.backbone(torch.tensor([[1.0, 2.0, 2.0]]))
    losses = {"a": z[0, 0], "b": z[0, 1] + z[0, 0]}
    found = g2s.conflict(losses, shared=net.backbone, features=z, temperature=1.0)
    # ∂a/∂W = (x; 0) and ∂b/∂W = (x; x), so the cosine is 1/√2 and the lengths are 3 and 3√2.
    assert found.gds == pytest.approx(1 / math.sqrt(2))
    assert found.gms == pytest.approx(2 * math.sqrt(2) / 3)
    assert found.fd == pytest.approx(math.log(2) / 2, abs=1e-4)
    assert net.backbone.weight.grad is None
    (losses["a"] + losses["b"]).backward()  # the graph is still there


def test_conflict_says_what_it_needs() -> None:
    net = Two()
    loss = net.backbone(torch.ones(1, 3)).sum()
    with pytest.raises(BalanceError, match="losses of 1; give two"):
        g2s.conflict({"a": loss}, shared=net.backbone)
    with pytest.raises(BalanceError, match="no parameter that is trained"):
        g2s.conflict({"a": loss, "b": loss}, shared=nn.ReLU())


def test_equal_and_reversed_rankings() -> None:
    scores = [1.0, 5.0, 2.0, 8.0]
    assert g2s.ranking_similarity(scores, scores).similarity == 1.0
    opposite = g2s.ranking_similarity(scores, [-score for score in scores])
    assert (opposite.similarity, opposite.folded) == (0.0, 1.0)


def test_the_chance_level_of_21_rankings_is_that_of_the_papers_tables() -> None:
    found = g2s.ranking_similarity(range(21), torch.randperm(21).tolist(), draws=4000)
    # The deviation of S is √((2n+5) / (18 n (n-1))) = 0.079, and E|S - ½| that of a normal number.
    assert found.chance == pytest.approx(0.5 + 0.0788 * math.sqrt(2 / math.pi), abs=0.004)
    assert found.count == 21


def test_a_ranking_by_chance_is_no_evidence() -> None:
    generator = torch.Generator().manual_seed(0)
    p_values = [
        g2s.ranking_similarity(range(12), torch.randperm(12, generator=generator).tolist(), draws=400).p_value
        for _ in range(60)
    ]
    assert 0.3 < sum(p_values) / len(p_values) < 0.7


@pytest.mark.parametrize("scores", [([1, 2], [1, 2]), ([1, 2, 3], [1, 2]), ([1, 2, math.nan], [1, 2, 3])])
def test_scores_that_cannot_be_ranked_are_refused(scores: tuple[list[float], list[float]]) -> None:
    with pytest.raises(BalanceError, match=r"scores? (have|is)"):
        g2s.ranking_similarity(*scores)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shared": 5}, "shared is 5"),
        ({"features": 5}, "features is 5"),
        ({"features": torch.ones(2)}, "features hold a Tensor"),
        ({"losses": {"a": 1.0, "b": 2.0}}, "the loss of a is 1.0"),
    ],
)
def test_odd_arguments_of_conflict_are_named(arguments: dict[str, Any], message: str) -> None:
    network = Two()
    z = network.backbone(torch.ones(1, 3))
    usual: dict[str, Any] = {"losses": {"a": z[0, 0], "b": z[0, 1]}, "shared": network.backbone}
    changed = {**usual, **arguments}
    with pytest.raises(BalanceError, match=message):
        g2s.conflict(changed.pop("losses"), **changed)


@pytest.mark.parametrize("scores", [("abc", "abd"), ([[1], [1, 2], [3]], [1, 2, 3]), ({"a": 1}, [1])])
def test_scores_that_are_no_numbers_are_refused(scores: tuple[Any, Any]) -> None:
    with pytest.raises(BalanceError, match="scores"):
        g2s.ranking_similarity(*scores)
