"""Inputs of other sizes than the example's: followed where the backbone does, refused where its code decides."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gate2static as g2s
from gate2static.errors import GateError


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, 2, 1)
        self.second = nn.Conv2d(6, 8, 3, padding=1)

    def body(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class ReadsASize(Body):
    """A size that is an argument of an operator is followed."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.dim() == 4, "images wanted"
        assert x.shape[1] == 3, "three channels wanted"
        height, width = x.shape[-2:]
        y = self.body(x)
        for pool in (1, 2):
            y = y + F.interpolate(F.adaptive_avg_pool2d(y, pool), size=y.shape[2:])
        return F.interpolate(y, size=(height, width)).flatten(2).view(len(x), -1, height, width)


class IntoInteger(Body):
    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.body(x), size=(int(x.shape[2] * 0.5) * 2, 8))


class PadsToAMultiple(Body):
    def forward(self, x: Tensor) -> Tensor:
        down = -x.shape[2] % 8
        right = -x.shape[3] % 8
        if down or right:
            x = F.pad(x, (0, right, 0, down))
        return self.body(x)


class PoolsBySize(Body):
    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return F.max_pool2d(y, 2) if y.shape[-1] > 8 else y


class SplitsRows(Body):
    def forward(self, x: Tensor) -> Tensor:
        rows = self.body(x).unbind(2)
        total = rows[0]
        for row in rows[1:]:
            total = total + row
        return total.unsqueeze(2)


def gated_network(backbone: nn.Module, size: tuple[int, int] = (16, 16)) -> g2s.GatedModel:
    torch.manual_seed(0)
    heads = {"a": nn.Conv2d(8, 2, 1), "b": nn.Conv2d(8, 2, 1)}
    x = torch.randn(2, 3, *size)
    return g2s.gate(backbone.eval(), tasks=["a", "b"], example_inputs=(x,), heads=heads).eval()


def assert_follows(backbone: nn.Module, gated: g2s.GatedModel, *size: int) -> None:
    x = torch.randn(1, 3, *size)
    torch.testing.assert_close(gated(x)["a"], gated.heads["a"](backbone(x)))


@pytest.mark.parametrize("backbone", [Body(), ReadsASize()])
@pytest.mark.parametrize("size", [(16, 16), (16, 24), (33, 7), (64, 65)])
def test_other_sizes_are_followed_where_nothing_depends_on_them(backbone: nn.Module, size: tuple[int, int]) -> None:
    assert_follows(backbone, gated_network(backbone), *size)


@pytest.mark.parametrize(
    ("backbone", "fits", "other"),
    [
        (IntoInteger(), (16, 24), (24, 16)),
        (PadsToAMultiple(), (24, 40), (17, 16)),
        (PoolsBySize(), (32, 12), (16, 40)),
        (SplitsRows(), (15, 30), (32, 16)),
    ],
)
def test_a_size_for_which_the_forward_decides_otherwise_is_refused(
    backbone: nn.Module, fits: tuple[int, int], other: tuple[int, int]
) -> None:
    """The gated network used to compute something else than the backbone in silence."""
    gated = gated_network(backbone)
    assert_follows(backbone, gated, *fits)
    message = rf"was gated for inputs of shape \(batch, 3, 16, 16\).*test_other_sizes\.py:\d+.*\(batch, 3, {other[0]}, "
    for _ in range(2):
        with pytest.raises(GateError, match=message):
            gated(torch.randn(1, 3, *other))
    again = gated_network(backbone, other)
    again.load_state_dict(gated.state_dict())
    assert_follows(backbone, again, *other)


def test_a_compiled_network_refuses_as_well() -> None:
    gated = gated_network(PadsToAMultiple())
    compiled = torch.compile(gated, backend="eager")
    x = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(compiled(x)["a"], gated(x)["a"])
    assert compiled(torch.randn(1, 3, 24, 16))["a"].shape == (1, 2, 12, 8)
    with pytest.raises(GateError, match="decides on their size"):
        compiled(torch.randn(1, 3, 17, 16))


def test_decisions_keep_no_weights() -> None:
    decisions = gated_network(PoolsBySize()).program.decisions
    assert decisions is not None
    assert all(tensor.is_meta for tensor in (*decisions.root.parameters(), *decisions.root.buffers()))
