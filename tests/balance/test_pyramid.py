"""Features of which one is computed from another: each has the gradient of what reads it, with or without a cut."""

import pytest
import torch
from torch import Tensor, nn

import gate2static as g2s
from gate2static.balance.features import FeatureTap
from gate2static.balance.measuring import measure
from gate2static.balance.weighting.gradnorm import GradNorm


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.first(x).tanh()
        return fine, self.second(fine)


def losses(backbone: Pyramid) -> dict[str, Tensor]:
    fine, coarse = backbone(torch.linspace(-1, 1, 15).view(5, 3))
    return {"a": (fine.sum(1) + coarse.sum(1)).square().mean(), "b": (coarse - 1).square().mean()}


def backbone() -> Pyramid:
    torch.manual_seed(0)
    return Pyramid()


def test_conflict_is_the_same_with_and_without_a_cut() -> None:
    found = []
    for cuts in (True, False):
        model = backbone()
        tap = FeatureTap(model, cuts=cuts)
        computed = losses(model)
        found.append(measure(computed, list(model.parameters()), features=tap.features, copies=tap.copies).values())
        tap.remove()
    cut, whole = found
    assert whole == pytest.approx(cut)


def test_norms_at_features_are_those_of_what_reads_them() -> None:
    model = backbone()
    balance = g2s.balance("gradnorm", model, tasks=["a", "b"], shared=model, at="features")
    norms = []

    def note(self: GradNorm, losses: Tensor, values: Tensor) -> None:
        norms.append(values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GradNorm, "update_by_norms", note)
        balance.backward(losses(model))
    tap = FeatureTap(model)
    expected = []
    for loss in losses(model).values():
        given = torch.autograd.grad(loss, tap.copies[-2:], allow_unused=True, retain_graph=True)
        expected.append(torch.cat([g.flatten() for g in given if g is not None]).norm().item())
    assert norms[0].tolist() == pytest.approx(expected)
