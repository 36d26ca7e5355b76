"""Training follows what the backbone says about gradients, also where torch.fx does not record it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gate2static.errors import TraceError
from gate2static.gates import GatedModel
from gate2static.prune import prune
from gate2static.verify import verify
from tests.program.tracing import called, gated, scramble, traced

IMAGES = torch.randn(2, 3, 4, 4)


class Round(torch.autograd.Function):
    """Rounds, and passes gradients straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class Halves(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.clone() for part in x.chunk(2, 1))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 10 * torch.cat(grads, 1)


class Doubles(Round):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)


class Swish(torch.autograd.Function):
    """Saves its input alone; the gradient is torch's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.note = "forgotten"
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * (x.sigmoid() * (1 + x * (1 - x.sigmoid())))


class Square(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, factor: float) -> Tensor:
        return x * x * factor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return 2 * ctx.factor * ctx.saved_tensors[0] * grads[0], None


class ClippedSwish(Swish):
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return Swish.backward(ctx, grads[0].clamp(-5, 5))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)))


class Rounded(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(Round.apply(3 * self.first(x)))


class RoundedWeight(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.conv2d(x, Round.apply(4 * self.first.weight), self.first.bias).relu())


class InHalves(Net):
    def forward(self, x: Tensor) -> Tensor:
        a, b = Halves.apply(self.first(x))
        return self.last(torch.cat([b, a], 1))


class FrozenStem(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.norm(self.first(x)).relu()
            size = y.shape[2] + 0
        return self.last(y) * (x.shape[2] / size)


class PartlyFrozen(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            largest = F.conv2d(x, self.first.weight).max(1, keepdim=True)
            y = torch.zeros_like(largest[0]).add_(largest.values)
            with torch.enable_grad():
                z = self.norm(self.first(x) * y)
        return self.last(z.relu())


class Applies(Net):
    def __init__(self, function: Any, *args: Any) -> None:
        super().__init__()
        self.function, self.args = function, args

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function.apply(self.first(x), *self.args))


@pytest.mark.parametrize(
    ("module", "calls"),
    [
        (Applies(Swish), ["first", "sigmoid", "mul", "last"]),
        (Applies(Square, 3.0), ["first", "mul", "mul", "last"]),
        (Applies(ClippedSwish), ["first", "ClippedSwish", "last"]),
        (Applies(Round), ["first", "Round", "last"]),
    ],
)
def test_a_function_that_only_writes_out_its_derivative_is_followed(module: nn.Module, calls: list[str]) -> None:
    state = torch.get_rng_state()
    assert called(traced(module, IMAGES)) == calls
    assert torch.equal(torch.get_rng_state(), state)


class Checkpointed(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(checkpoint(lambda y: self.norm(self.first(y)).relu(), x, use_reentrant=True))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
def test_checkpointed_code_is_followed() -> None:
    assert called(traced(Checkpointed(), IMAGES)) == ["first", "norm", "relu", "last"]


@pytest.mark.parametrize("kind", [Rounded, RoundedWeight, InHalves, FrozenStem, PartlyFrozen])
def test_all_shared_gates_give_the_backbones_own_gradients(kind: type[Net]) -> None:
    backbone = kind().train()
    model = gated(backbone, IMAGES, tasks=("a",), gate_init=-1.0)
    backbone(IMAGES).flatten(1).mean(1).square().sum().backward()
    model(IMAGES)["a"].square().sum().backward()
    expected = {name: p.grad for name, p in backbone.named_parameters()}
    assert (backbone.first.weight.grad is None) == (kind is FrozenStem)
    for name, p in model.branches["shared"].named_parameters():
        if name in expected and expected[name] is None:
            assert p.grad is None or not p.grad.any()
        elif name in expected:
            torch.testing.assert_close(p.grad, expected[name])


@pytest.mark.parametrize("kind", [Rounded, RoundedWeight, InHalves, FrozenStem, PartlyFrozen])
def test_they_prune_to_the_same(kind: type[Net]) -> None:
    torch.manual_seed(0)
    model = gated(kind(), IMAGES, gate_init=0.0, gate_init_std=1.0).eval()
    for branch in model.branches.values():
        scramble(branch)
    assert verify(model, prune(model)).passed


def test_gating_without_gradients_changes_nothing() -> None:
    with torch.no_grad():
        model: GatedModel = gated(Net(), IMAGES)
    assert "detach" not in called(model.encoder)
    assert all(p.requires_grad for p in model.parameters())


class WritesInPlace(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(Doubles.apply(self.first(x)))


def test_an_autograd_function_that_writes_in_place_is_refused() -> None:
    with pytest.raises(TraceError, match="the network calls the autograd function Doubles, which writes into its"):
        traced(WritesInPlace(), IMAGES)


class Narrow(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.norm(self.first(x))
        return self.last(x.float())


class Wide(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(device_type=x.device.type, enabled=False):
            return super().forward(x)


def test_a_forward_that_switches_autocast_on_is_refused_and_a_submodule_stays_whole() -> None:
    with pytest.raises(TraceError, match=r"autocast is switched on for cpu .*self\.norm\(self\.first\(x\)\)"):
        traced(Narrow(), IMAGES)
    assert called(traced(nn.Sequential(nn.Conv2d(3, 3, 1), Narrow()), IMAGES)) == ["0", "1"]
    assert called(traced(Wide(), IMAGES)) == ["first", "norm", "last"]


def test_tracing_leaves_autograd_as_it_was() -> None:
    before = torch.autograd.Function.__dict__["apply"]
    traced(Rounded(), IMAGES)
    assert torch.autograd.Function.__dict__["apply"] is before
