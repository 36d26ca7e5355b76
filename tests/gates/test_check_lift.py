"""A wrong trace is noticed whatever values the backbone's parameters start with, and nothing is changed by looking."""

import copy

import pytest
import torch
from torch import Tensor, nn

from gate2static.errors import TraceError
from gate2static.gates.check_lift import check_lift
from tests.program.tracing import gated

IMAGES = torch.randn(2, 3, 4, 4)
REFUSED = "the traced backbone does not compute what the backbone computes"


class WritesThenReads(nn.Module):
    """Adds a branch in place, and reads what was there before: torch.fx records the value before the addition."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.first, self.branch, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
        self.scale = nn.Parameter(scale)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        before = x
        x += self.scale * self.branch(x)
        return self.last(x + before)


@pytest.mark.parametrize("scale", [torch.zeros(()), torch.zeros(4, 1, 1), torch.full((1, 4, 1, 1), 1e-6)])
def test_a_scale_that_starts_at_nothing_hides_no_wrong_trace(scale: Tensor) -> None:
    with pytest.raises(TraceError, match=REFUSED):
        gated(WritesThenReads(scale), IMAGES)


class Scaled(nn.Module):
    def __init__(self, *, square: bool = False) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
        self.scale, self.square = nn.Parameter(torch.zeros(4, 1, 1)), square
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        # With a random scale the root would be that of a negative number.
        return self.last(x + (-self.scale.square().sum()).sqrt() if self.square else x * self.scale)


@pytest.mark.parametrize("square", [False, True])
def test_looking_changes_neither_the_backbone_nor_the_branches_nor_the_random_numbers(square: bool) -> None:
    backbone = Scaled(square=square).train()
    before = copy.deepcopy(backbone.state_dict())
    torch.manual_seed(0)
    model = gated(backbone, IMAGES)
    state = torch.get_rng_state()
    for network in (backbone, *model.branches.values()):
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert all(m.training for m in network.modules() if m is backbone or next(m.children(), None) is None)
    check_lift(backbone, model.encoder, list(model.branches.values()), (IMAGES,))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_refusal_restores_the_branches_too() -> None:
    backbone = Scaled()
    model = gated(backbone, IMAGES)
    other = copy.deepcopy(backbone)
    nn.init.normal_(other.first.bias)
    with pytest.raises(TraceError, match=REFUSED):
        check_lift(other, model.encoder, list(model.branches.values()), (IMAGES,))
    assert not any(branch.scale.any() for branch in model.branches.values())
    assert not other.scale.any()


class Remembers(Scaled):
    """Derives something from a parameter once, as long as it is not trained."""

    derived: Tensor | None = None

    def train(self, mode: bool = True) -> "Remembers":
        if mode:
            self.derived = None
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if self.derived is None:
            self.derived = self.scale + 1
        return self.last(self.norm(self.first(x)) * (self.scale + 1 if self.training else self.derived))


class RemembersWhole(nn.Module):
    derived: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x * (self.scale + 1)
        if self.derived is None:
            self.derived = self.scale + 1
        return x * self.derived


def test_what_a_forward_remembers_of_random_parameters_is_forgotten() -> None:
    for backbone in (Remembers().eval(), nn.Sequential(RemembersWhole(), nn.Conv2d(3, 2, 1)).eval()):
        expected = copy.deepcopy(backbone)(IMAGES)
        torch.testing.assert_close(gated(backbone, IMAGES).encoder(IMAGES)[0], expected)
