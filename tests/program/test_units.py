"""Every module with parameters that the trace keeps whole is a unit, and every parameter passes a gate."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers import Conv2dSame, LayerNorm2d, RmsNorm, StdConv2d
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.misc import FrozenBatchNorm2d

from gate2static.errors import TraceError
from gate2static.gates import set_gates
from tests.program.tracing import gated, scramble

IMAGES, TOKENS = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 6)


class Odd(nn.Module):
    """Runs, but torch.fx cannot follow it: it insists on tensors."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError("a tensor is wanted")
        return self.layer(x)


class First(nn.Module):
    """What the layer returns first."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)[0]


class All(First):
    def forward(self, x: Tensor) -> Any:
        out, (hidden, _) = self.layer(x)
        return out + hidden.movedim(0, 1)


class Doubled(nn.Conv2d):
    """Not what torch calls Conv2d."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input) * 2


class Noisy(nn.Module):
    """Trains differently, so it stays whole."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + (torch.randn_like(x) if self.training else 0.0)


class Scaled(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 4, 1), nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x + self.scale.abs() * x.relu()


class ComputedBias(nn.Module):
    """As BEiT has it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.q, self.v = nn.Linear(6, 9, bias=False), nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
        self.register_buffer("k", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, weight=self.fc.weight, bias=torch.cat([self.q, self.k, self.v])).relu()


class ComputedWeight(nn.Module):
    """As weight standardisation has it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.norm = nn.Parameter(torch.randn(4, 3, 1, 1)), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.conv2d(x, self.weight - self.weight.mean())).relu()


class AddedBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bias, self.norm = nn.Linear(6, 4), nn.Parameter(torch.ones(4)), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.fc(x) + self.bias).relu()


ids = torch.randint(0, 9, (2, 5))
CASES: dict[str, tuple[Callable[[], nn.Module], Tensor, list[tuple[str, int, int]]]] = {
    "lstm": (lambda: First(nn.LSTM(6, 4, batch_first=True)), TOKENS, [("layer", 4, 2)]),
    "lstm and its state": (
        lambda: All(nn.LSTM(6, 4, batch_first=True)),
        TOKENS,
        [("layer", 4, 2), ("getitem_2", 4, 2)],
    ),
    "embedding": (lambda: nn.Sequential(nn.Embedding(9, 4)), ids, [("_0", 4, 2)]),
    "bilinear": (lambda: Pairs(), TOKENS, [("layer", 4, 2)]),
    "not traceable, image": (lambda: nn.Sequential(Odd(nn.Conv2d(3, 4, 1))), IMAGES, [("_0", 4, 1)]),
    "not traceable, tokens": (lambda: nn.Sequential(Odd(nn.Linear(6, 4))), TOKENS, [("_0", 4, 2)]),
    "own convolution": (lambda: nn.Sequential(Doubled(3, 4, 1), nn.ReLU()), IMAGES, [("_0", 4, 1)]),
    "trains differently": (lambda: nn.Sequential(Noisy()), IMAGES, [("_0", 3, 1)]),
    "scale of channels": (lambda: Scaled((4, 1, 1)), IMAGES, [("conv", 4, 1), ("mul", 4, 1)]),
    "scale of columns": (lambda: Scaled((8,)), IMAGES, [("conv", 4, 1), ("mul", 8, 3)]),
    "computed bias": (ComputedBias, TOKENS, [("fc", 9, 2)]),
    "computed weight": (ComputedWeight, IMAGES, [("conv2d", 4, 1)]),
    "added bias": (AddedBias, TOKENS, [("fc", 4, 2)]),
    "prelu at the end": (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU(4)), IMAGES, [("_0", 4, 1), ("_1", 4, 1)]),
    "standardised": (lambda: nn.Sequential(StdConv2d(3, 4, 1), nn.ReLU()), IMAGES, [("_0", 4, 1)]),
    "same padding": (lambda: nn.Sequential(Conv2dSame(3, 4, 3, 2), nn.ReLU()), IMAGES, [("_0", 4, 1)]),
    "frozen norm": (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), FrozenBatchNorm2d(4)), IMAGES, [("_0", 4, 1)]),
    "norm of images": (lambda: nn.Sequential(nn.ReLU(), LayerNorm2d(3)), IMAGES, [("_1", 3, 1)]),
    "norm of tokens": (lambda: nn.Sequential(nn.Linear(6, 4), RmsNorm(4)), TOKENS, [("_0", 4, 2)]),
}


class Pairs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Bilinear(6, 6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x)


@pytest.mark.parametrize(("make", "x", "expected"), CASES.values(), ids=CASES)
def test_units_and_their_channels(
    make: Callable[[], nn.Module], x: Tensor, expected: list[tuple[str, int, int]]
) -> None:
    model = gated(make().eval(), x)
    assert [(u.name, u.channels, u.dim) for u in model.program.units] == expected


@pytest.mark.parametrize(("make", "x", "expected"), CASES.values(), ids=CASES)
def test_closed_gates_leave_nothing_of_a_tasks_own_branch(
    make: Callable[[], nn.Module], x: Tensor, expected: object
) -> None:
    """Invariant 2: with all gates shared every task computes what the shared branch alone computes."""
    backbone = make().eval()
    model = gated(backbone, x)
    for branch in model.branches.values():
        scramble(branch)
    set_gates(model, False)
    backbone.load_state_dict(model.branches["shared"].state_dict(), strict=False)
    for features in model.encoder(x):
        torch.testing.assert_close(features, backbone(x))
    set_gates(model, True)
    assert not torch.allclose(*model.encoder(x))


class WritesItsInput(Odd):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.relu_())


def test_a_whole_module_that_writes_into_its_input_is_refused() -> None:
    """Streams share values: one stream's write would change what the others read."""
    with pytest.raises(TraceError, match="a tensor is wanted .*raise TypeError"):
        gated(nn.Sequential(nn.Conv2d(3, 3, 1), WritesItsInput(nn.Conv2d(3, 4, 1))).eval(), IMAGES)


class Remembers(Odd):
    """Makes a table when it runs for the first time."""

    table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.arange(x.shape[-1]) * 1.0
        return super().forward(x) + self.table


class RemembersInPieces(Remembers):
    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = x.new_zeros(1) + torch.arange(x.shape[-1])
        return self.layer(x) + self.table


@pytest.mark.parametrize("kind", [Remembers, RemembersInPieces])
def test_what_a_forward_remembers_while_it_is_traced_is_forgotten(kind: type[Remembers]) -> None:
    backbone = nn.Sequential(kind(nn.Conv2d(3, 4, 1))).eval()
    model = gated(backbone, IMAGES)
    set_gates(model, True)
    assert backbone[0].table is None
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(model.encoder(x)[0], backbone(x))


class TakesLists(nn.Module):
    """Takes a tensor or a list of tensors, and looks what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x: Any) -> Tensor:
        if isinstance(x, Tensor):
            x = [x]
        return self.layers(x[0])


def test_a_module_that_asks_whether_it_is_given_a_tensor_stays_whole() -> None:
    backbone = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1), TakesLists()), nn.Conv2d(4, 2, 1)).eval()
    model = gated(backbone, IMAGES)
    assert [u.name for u in model.program.units] == ["_0_0", "_0_1", "_1"]
    with pytest.raises(TraceError, match="the backbone does not run on inputs .*: at layers_1: .*3D"):
        gated(TakesLists(), IMAGES)


def test_only_the_innermost_module_that_cannot_be_followed_is_whole() -> None:
    block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(Odd(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4)))
    model = gated(nn.Sequential(block, nn.Conv2d(4, 2, 1)).eval(), IMAGES)
    assert [u.name for u in model.program.units] == ["_0_0", "_0_1_0", "_1"]
    assert "_0_1_1" in {n.name for n in model.program.graph.nodes}


def test_a_gate_behind_a_whole_module_of_three_repeats_is_found_in_each() -> None:
    blocks = nn.Sequential(*(nn.Sequential(Odd(nn.Conv2d(3, 3, 1)), nn.ReLU()) for _ in range(4)))
    assert len(gated(blocks.eval(), IMAGES).program.units) == 4


def test_a_gate_that_is_forgotten_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug of the test above."""
    monkeypatch.setattr("gate2static.program.units._ungated", lambda *_: [])
    make, x, _ = CASES["scale of channels"]
    with pytest.raises(AssertionError, match="not close"):
        test_closed_gates_leave_nothing_of_a_tasks_own_branch(make, x, None)


@torch.fx.wrap
def marked(x: Tensor, weight: Tensor, limit: float) -> Tensor:
    return F.linear(x, weight) if x.shape[-1] > 3 else x


@torch.fx.wrap
def marked_for_a_reason(x: Tensor, weight: Tensor) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError("a proxy cannot follow this")
    return F.linear(x, weight) * 2.0


class CallsMarked(nn.Module):
    def __init__(self, function: Callable[..., Tensor], *args: Any) -> None:
        super().__init__()
        self.function, self.args, self.weight = function, args, nn.Parameter(torch.randn(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        call = marked if self.function == "marked" else marked_for_a_reason
        return call(x, self.weight, *self.args).relu()


@pytest.mark.parametrize(("module", "calls"), [(CallsMarked("marked", 3.0), False), (CallsMarked("other"), True)])
def test_marked_functions_are_followed_or_are_units_themselves(module: nn.Module, calls: bool) -> None:
    model = gated(module.eval(), TOKENS)
    (unit,) = model.program.units
    assert (unit.channels, unit.dim) == (4, 2)
    assert calls == any(n.target is marked_for_a_reason for n in model.program.graph.nodes)
    x = torch.randn(3, 5, 6)
    torch.testing.assert_close(model.encoder(x)[0], module(x))


def test_following_a_marked_function_leaves_torchs_own_functions_unmarked() -> None:
    model = gated(CallsMarked("marked", 3.0).eval(), TOKENS)
    model.encoder.recompile()
    torch.fx.symbolic_trace(nn.Sequential(nn.Linear(6, 4), nn.ReLU()))
    assert not any("is_wrapped" in node.meta for node in model.encoder.graph.nodes)


@torch.fx.wrap
def marked_for_its_write(x: Tensor, weight: Tensor) -> Tensor:
    written = torch.zeros(x.shape[0] * x.shape[1], 4)
    torch.add(written, 1.0, out=written)
    return F.linear(x, weight) + written.view(*x.shape[:-1], 4)


class CallsWrite(CallsMarked):
    def forward(self, x: Tensor) -> Tensor:
        return marked_for_its_write(x, self.weight)


def test_a_marked_function_that_cannot_be_made_out_of_place_stays_whole() -> None:
    nodes = gated(CallsWrite("").eval(), TOKENS).program.graph.nodes
    assert any(n.target is marked_for_its_write for n in nodes)
