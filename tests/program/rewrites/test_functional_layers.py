"""Functions with stored weights become layers tied to those weights."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.errors import GateError, TraceError
from gate2static.program.rewrites import functional_layers
from tests.program.tracing import called, gated, scramble, traced


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


class Call(nn.Module):
    """A function on stored weights."""

    def __init__(self, function: Any, weights: dict[str, Tensor], options: dict[str, Any]) -> None:
        super().__init__()
        self.function, self.options, self.names = function, options, list(weights)
        for name, value in weights.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, **{n: getattr(self, n) for n in self.names}, **self.options)


IMAGE, LINE, VOLUME, ROWS = (2, 4, 6, 6), (2, 4, 9), (2, 4, 5, 5, 5), (2, 5, 4)
CALLS: list[Any] = [
    (F.linear, ROWS, {"weight": (6, 4), "bias": (6,)}, {}, nn.Linear),
    (F.linear, ROWS, {"weight": (6, 4)}, {}, nn.Linear),
    (F.conv1d, LINE, {"weight": (6, 4, 3)}, {"padding": 2, "dilation": 2}, nn.Conv1d),
    (F.conv2d, IMAGE, {"weight": (6, 2, 3, 3), "bias": (6,)}, {"groups": 2, "stride": 2}, nn.Conv2d),
    (torch.conv2d, IMAGE, {"weight": (6, 4, 3, 3)}, {"padding": "same"}, nn.Conv2d),
    (F.conv3d, VOLUME, {"weight": (6, 4, 2, 2, 2)}, {}, nn.Conv3d),
    (F.conv_transpose1d, LINE, {"weight": (4, 3, 3)}, {"groups": 2}, nn.ConvTranspose1d),
    (F.conv_transpose2d, IMAGE, {"weight": (4, 6, 3, 3)}, {"stride": 2, "output_padding": 1}, nn.ConvTranspose2d),
    (F.conv_transpose3d, VOLUME, {"weight": (4, 6, 2, 2, 2), "bias": (6,)}, {}, nn.ConvTranspose3d),
    (F.layer_norm, ROWS, {"weight": (4,), "bias": (4,)}, {"normalized_shape": (4,), "eps": 0.1}, nn.LayerNorm),
    (torch.layer_norm, ROWS, {"weight": (4,)}, {"normalized_shape": (4,)}, nn.LayerNorm),
    (F.group_norm, IMAGE, {"weight": (4,), "bias": (4,)}, {"num_groups": 2, "eps": 0.1}, nn.GroupNorm),
    (F.rms_norm, ROWS, {"weight": (4,)}, {"normalized_shape": (4,), "eps": 0.1}, nn.RMSNorm),
    (F.prelu, IMAGE, {"weight": (4,)}, {}, nn.PReLU),
]


@pytest.mark.parametrize(("function", "shape", "weights", "options", "kind"), CALLS)
def test_a_function_becomes_its_layer(
    function: Any, shape: tuple[int, ...], weights: dict[str, tuple[int, ...]], options: dict[str, Any], kind: type
) -> None:
    x = torch.randn(shape)
    module = Call(function, {name: weight(*s) for name, s in weights.items()}, options)
    network = traced(module, x)
    (layer,) = (network.get_submodule(name) for name in called(network))
    assert type(layer) is kind
    assert torch.equal(network(x), module(x))
    scramble(layer)  # the same function, not the same number
    scrambled = copy.deepcopy(module)
    for name in weights:
        setattr(scrambled, name, getattr(layer, name))
    assert torch.equal(network(x), scrambled(x))


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.scale, self.conv = weight(4, 4), weight(1), nn.Conv2d(4, 4, 1)
        self.register_buffer("kernel", torch.ones(4, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(self.conv(x), self.kernel, padding=1, groups=4)  # fixed: a layer without a gate
        x = F.linear(x.movedim(1, -1), self.weight * self.scale)  # computed
        return F.linear(x, self.weight).movedim(-1, 1)  # stored


def test_computed_weights_stay_in_functions_and_fixed_ones_have_no_gate() -> None:
    x = torch.randn(IMAGE)
    model = gated(Odd(), x)
    assert [(u.name.split("_")[0], u.dim) for u in model.program.units] == [("conv", 1), ("linear", 3), ("linear", 3)]
    names = called(traced(Odd(), x))
    assert names.count("linear") == 1
    assert "conv2d" not in names


class InParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.fc.weight, self.fc.bias)


def test_a_layer_called_by_its_parts_keeps_its_name() -> None:
    model = gated(InParts(), torch.randn(ROWS))
    assert model.branches["a"].state_dict().keys() == InParts().state_dict().keys()


class Shared(nn.Module):
    """One weight, used by a layer, by two calls of a function, and on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(self.fc(x), self.fc.weight, self.bias)
        return F.linear(x, self.fc.weight, self.bias) + self.fc.weight.sum()


def test_a_tied_layer_follows_its_parameters_through_copies_loading_and_training() -> None:
    x, backbone, own = torch.randn(ROWS), Shared(), scramble(Shared())
    model = copy.deepcopy(gated(backbone, x, task_states={"b": own.state_dict()}, shared_state=own.state_dict()))
    branch = model.branches["b"]
    layer = next(m for name, m in branch.named_modules() if name.endswith("_layer"))
    assert torch.equal(layer.weight, own.fc.weight)
    assert layer.weight is branch.fc.weight
    assert len({name for name in dict(model.named_modules()) if name.endswith("_layer")}) == 3  # one a stream
    count = sum(p.numel() for p in branch.parameters())
    assert count == sum(p.numel() for p in own.parameters())
    for gate in model.gates.values():
        gate.alpha.data.fill_(1.0)
    torch.testing.assert_close(model.encoder(x)[1], own(x))
    model(x)["b"].sum().backward()
    assert layer.weight.grad is branch.fc.weight.grad is not None


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_states_still_fit_by_name(change: str) -> None:
    state = dict(Shared().state_dict())
    if change == "missing":
        del state["fc.weight"]
    else:
        state["other"] = torch.zeros(1)
    with pytest.raises(GateError, match=f"the state for stream 'shared'.*{change.capitalize()} key"):
        gated(Shared(), torch.randn(ROWS), shared_state=state)


def test_a_layer_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    names, make = functional_layers._LAYERS[F.conv2d]
    wrong = lambda weight, bias, padding=0, **options: make(weight, bias, padding=padding, padding_mode="circular")  # noqa: E731
    monkeypatch.setitem(functional_layers._LAYERS, F.conv2d, (names, wrong))
    module = Call(F.conv2d, {"weight": weight(4, 4, 3, 3)}, {"padding": 1})
    with pytest.raises(TraceError, match="does not compute what the backbone computes"):
        gated(module, torch.randn(IMAGE))
