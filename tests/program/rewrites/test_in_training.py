"""What a forward does in training alone is done in training alone, whatever way it is written."""

import operator
import random
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import gate2static as g2s
from gate2static.errors import TraceError
from gate2static.program.rewrites.in_training import InTraining
from tests.program.tracing import called, gated, traced

IMAGES = torch.randn(4, 3, 6, 6)
Code = Callable[[nn.Module, Tensor], Tensor]


class Net(nn.Module):
    """Two layers with some code between them."""

    def __init__(self, code: Code) -> None:
        super().__init__()
        self.first, self.last, self.code = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), code

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.code(self, self.first(x)))


def drop_path(x: Tensor, p: float, training: bool) -> Tensor:
    return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(1 - p) / (1 - p) if training else x


def add_noise(m: nn.Module, x: Tensor) -> Tensor:
    if m.training:
        x.add_(torch.randn(x.shape))
    return x


def mix_samples(m: nn.Module, x: Tensor) -> Tensor:
    if not m.training:
        return x
    share = torch.rand(x.shape[0], 1, 1, 1)
    return x * share + x[torch.randperm(x.shape[0])] * (1 - share)


def causal_attention(m: nn.Module, x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    p = 0.5 if m.training else 0.0
    attended = F.scaled_dot_product_attention(tokens, tokens, tokens, dropout_p=p, is_causal=True)
    return attended.transpose(1, 2).reshape(x.shape)


CODES: dict[str, Code] = {
    "p that depends on the mode": lambda m, x: F.dropout(x, 0.5 if m.training else 0.0),
    "under if": lambda m, x: F.dropout(x, 0.5) if m.training else x,
    "torch.dropout": lambda m, x: torch.dropout(x, 0.5, m.training),
    "torch.feature_dropout": lambda m, x: torch.feature_dropout(x, 0.5, m.training),
    "in place": lambda m, x: F.dropout(x, 0.5, m.training, True),
    "alpha": lambda m, x: F.alpha_dropout(x, 0.5, m.training),
    "feature alpha": lambda m, x: F.feature_alpha_dropout(x, 0.5, m.training),
    "dropout1d": lambda m, x: F.dropout1d(x.flatten(2), 0.5, m.training).view_as(x),
    "dropout2d": lambda m, x: F.dropout2d(x, 0.5, m.training),
    "dropout3d": lambda m, x: F.dropout3d(x.unsqueeze(2), 0.5, m.training).squeeze(2),
    "rrelu": lambda m, x: F.rrelu(x, 0.1, 0.9, m.training),
    "torch.rrelu": lambda m, x: torch.rrelu(x, 0.1, 0.9, m.training),
    "stochastic depth": lambda m, x: x + torchvision.ops.stochastic_depth(x, 0.5, "row", m.training),
    "drop block": lambda m, x: torchvision.ops.drop_block2d(x, 0.3, 3, training=m.training),
    "own function": lambda m, x: x + drop_path(x, 0.5, m.training),
    "noise": lambda m, x: x + torch.randn_like(x) if m.training else x,
    "noise of one sample": lambda m, x: x + (torch.randn(1) if m.training else 0.0),
    "noise in place": add_noise,
    "uniform": lambda m, x: x * torch.empty(x.size(0), 1, 1, 1).uniform_(0.5, 2) if m.training else x,
    "mask": lambda m, x: torch.where(torch.rand_like(x) < 0.3, 0.0, x) if m.training else x,
    "gumbel": lambda m, x: F.gumbel_softmax(x, dim=1) if m.training else x.softmax(1),
    "mixed samples": mix_samples,
    "causal attention": causal_attention,
}


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_training_draws_what_the_backbone_draws_and_evaluation_nothing(code: Code) -> None:
    """A trace in eval mode used to leave all of this out, and training never noticed."""
    network = Net(code)
    copy = traced(network, IMAGES)
    for training in (True, False):
        results = []
        for module in (network.train(training), copy.train(training)):
            torch.manual_seed(0)
            results.append(module(IMAGES))
        torch.testing.assert_close(*results)
    network.train()
    assert not torch.equal(network(IMAGES), network(IMAGES))


def test_every_stream_draws_and_the_static_network_is_that_of_evaluation() -> None:
    """Noise under `if self.training` used to be gone in all streams."""
    model = gated(Net(CODES["noise"]).train(), IMAGES)
    g2s.set_gates(model, True)
    for task in ("a", "b"):
        assert not torch.equal(model(IMAGES)[task], model(IMAGES)[task])
    model.eval()
    static = g2s.prune(model)
    # The means of the heads.
    assert set(static.manifest.barriers) <= {"mean", "mean_1"}
    torch.testing.assert_close(static(IMAGES), model(IMAGES))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.conv(x), 0.5, self.training) + (torch.randn_like(x) if self.training else 0.0)


def test_a_submodule_in_evaluation_does_nothing_of_it() -> None:
    """The layers that a trace made used to stand at the root, and followed its mode."""
    copy = traced(nn.Sequential(Block(), nn.Conv2d(3, 2, 1)).train(), IMAGES)
    assert not torch.equal(copy(IMAGES), copy(IMAGES))
    copy.get_submodule("0").eval()
    assert torch.equal(copy(IMAGES), copy(IMAGES))


def test_what_is_the_same_in_both_modes_needs_no_layer() -> None:
    network = traced(Net(lambda m, x: x.relu() if m.training else F.relu(x)), IMAGES)
    assert sum(isinstance(module, InTraining) for module in network.modules()) == 1
    network = traced(Net(lambda m, x: F.dropout(x, 0.5, m.training).relu()), IMAGES)
    assert not any(isinstance(module, InTraining) for module in network.modules())
    assert called(network) == ["first", "dropout_layer", "relu", "last"]


def test_a_probability_of_zero_in_training_draws_nothing() -> None:
    """A dropout that is never on used to be switched on in training."""
    network = traced(Net(lambda m, x: F.dropout(x, 0.5, training=False)), IMAGES).train()
    assert torch.equal(network(IMAGES), network(IMAGES))


def flip_a_coin(m: nn.Module, x: Tensor) -> Tensor:
    return x * 2 if m.training and random.random() < 0.5 else x


def flip_torchs_coin(m: nn.Module, x: Tensor) -> Tensor:
    return x * 2 if m.training and torch.rand(()) < 0.5 else x


def two_values(m: nn.Module, x: Tensor) -> Tensor:
    noise = torch.rand_like(x) if m.training else x
    return x * noise + (x - noise if m.training else x).relu()


class Around(nn.Module):
    """Has the code in a submodule with a layer."""

    def __init__(self, code: Code) -> None:
        super().__init__()
        self.inner, self.last = Net(code), nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(x))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (flip_a_coin, "draws random numbers in training that are not drawn by a function of torch"),
        (flip_torchs_coin, "in training mode: symbolically traced variables cannot be used as inputs to control flow"),
        (two_values, "makes several values in training alone"),
    ],
)
def test_what_no_layer_can_hold_keeps_its_submodule_whole_and_is_refused_in_the_root(code: Code, reason: str) -> None:
    """These used to be left out in silence."""
    with pytest.raises(TraceError, match=reason) as refusal:
        traced(Net(code), IMAGES)
    assert __file__ in str(refusal.value)
    network = traced(Around(code), IMAGES).train()
    assert called(network) == ["inner", "last"]
    results = [network(IMAGES) for _ in range(12)]
    assert not all(map(torch.equal, results, results[1:]))


class Auxiliary(nn.Module):
    """Returns more in training, or computes it and keeps it."""

    kept: Tensor | None = None

    def __init__(self, *, returns: bool) -> None:
        super().__init__()
        self.first, self.other, self.returns = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), returns

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.first(x)
        if not self.training:
            return [x]
        if self.returns:
            return [x, self.other(x)]
        self.kept = self.other(x)
        return [x]


@pytest.mark.parametrize(
    ("returns", "reason"),
    [(True, "returns another structure in training"), (False, "'other', which has parameters or buffers, is used in")],
)
def test_auxiliary_outputs_of_training_are_refused(returns: bool, reason: str) -> None:
    """They used to be dropped, and their parameters with them."""
    with pytest.raises(TraceError, match=reason):
        traced(Auxiliary(returns=returns), IMAGES)


class Switched(nn.Module):
    """Switches something on in its own `train`."""

    is_on = False

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def train(self, mode: bool = True) -> "Switched":
        self.is_on = mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x + torch.randn_like(x) if self.is_on else x)


def test_what_an_own_train_switches_on_is_on_in_training() -> None:
    """The flag used to stay as it was when the network was traced."""
    network = traced(Switched(), IMAGES).train()
    assert not torch.equal(network(IMAGES), network(IMAGES))


def test_gradients_that_are_off_in_training_alone_stay_off() -> None:
    """A trunk that is frozen in training used to get gradients."""

    def frozen(m: nn.Module, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(not m.training):
            return x.square()

    network = traced(Net(frozen), IMAGES).train()
    network(IMAGES).sum().backward()
    first = operator.attrgetter("first.weight.grad")(network)
    assert first is None


class Writes(nn.Module):
    """Keeps statistics of its input in buffers."""

    seen: Tensor
    count: Tensor

    def __init__(self, write: Callable[["Writes", Tensor], None], *, always: bool = False) -> None:
        super().__init__()
        self.conv, self.write, self.always = nn.Conv2d(3, 3, 1), write, always
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.training or self.always:
            self.write(self, x.detach().mean((0, 2, 3)))
        return x


def count_up(m: Writes, mean: Tensor) -> None:
    m.count += 1


def assign(m: Writes, mean: Tensor) -> None:
    m.seen = m.seen * 0.9 + mean * 0.1


def assign_item(m: Writes, mean: Tensor) -> None:
    m.seen[0] = mean[0]


def clamp(m: Writes, mean: Tensor) -> None:
    m.conv.weight.data.clamp_(-0.1, 0.1)


WRITES: dict[str, Callable[[Writes, Tensor], object]] = {
    "in place": lambda m, mean: m.seen.mul_(0.9).add_(mean, alpha=0.1),
    "lerp": lambda m, mean: m.seen.lerp_(mean, 0.1),
    "copy": lambda m, mean: m.seen.copy_(mean),
    "count": count_up,
    "assigned": assign,
    "one item": assign_item,
    "a parameter": clamp,
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_submodule_that_writes_into_what_it_stores_stays_whole_and_the_root_is_refused(
    write: Callable[[Writes, Tensor], None],
) -> None:
    """Buffers that a forward writes used to vanish from the branches, and their updates with them."""
    with pytest.raises(TraceError, match=r"its forward writes into '.*'. Write only where self.training is set"):
        gated(Writes(write), IMAGES)
    backbone = nn.Sequential(Writes(write), nn.Conv2d(3, 2, 1))
    model = gated(backbone, IMAGES).train()
    g2s.set_gates(model, False)
    model(IMAGES)
    backbone(IMAGES)
    for branch in model.branches.values():
        expected = backbone.state_dict()
        assert branch.state_dict().keys() == expected.keys()
        for name, value in branch.state_dict().items():
            torch.testing.assert_close(value, expected[name])


def test_writes_in_evaluation_are_refused() -> None:
    """They used to end in a traceback of `prune`."""
    with pytest.raises(TraceError, match="writes into its buffer '0.count' in evaluation too"):
        gated(nn.Sequential(Writes(count_up, always=True), nn.Conv2d(3, 2, 1)), IMAGES)
