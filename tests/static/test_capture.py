"""Networks run on tensors without content; what is recorded must be what torch.export captures."""

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from gate2static.errors import PruneError
from gate2static.gates import gate
from gate2static.prune import prune
from gate2static.prune.emission.layout import TARGETS, Layout
from gate2static.prune.emit import emit
from gate2static.static.aten import annotate
from gate2static.static.capturing import capture as capturing
from gate2static.static.capturing.capture import capture, exported, recorded
from gate2static.static.deploy.pipeline import deploy
from gate2static.static.deploy.traffic_cost import traffic_cost
from gate2static.static.recording import UnrecordedError
from gate2static.verify import verify
from tests import zoo

pytestmark = pytest.mark.slow


def _operators(network: fx.GraphModule) -> Counter[str]:
    return Counter(str(node.target) for node in network.graph.nodes if node.op == "call_function")


def _same(network: nn.Module, x: Tensor, how: Layout, way: Any) -> bool:
    """Whether both ways give the same operators, and cost as much when they are deployed."""
    found = []
    for trace in (way, exported):
        traced = trace(deepcopy(network), (x,))
        deployed = deploy(traced, (x,), convolve_moves=how.convolve_moves, channels_first=how.channels_first)
        annotate(deployed, (x,))
        found.append((_operators(traced), _operators(deployed), traffic_cost(deployed)))
    return found[0] == found[1]


@pytest.mark.parametrize("how", TARGETS["ort-cpu"].layouts, ids=["shared", "apart", "convolved"])
@pytest.mark.parametrize("network", ["resnet12", "many_rules", "token_rules"])
def test_what_is_recorded_is_what_torch_export_captures(network: str, how: Layout) -> None:
    gated, x = zoo.make_gated(network, tasks=2, p=0.3)
    assert _same(emit(zoo.planned(gated), how), x, how, recorded)


class _Repeats(nn.Module):
    """A parameter for each sample, and each of its halves."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(2, 3))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        repeated = self.positions.repeat(x.shape[0], 1).exp().unflatten(0, (-1, 2))
        return (x + repeated.mean(1),)


class _Writes(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        x = x * 2
        x[:, 0] = 1
        return (x.mul_(3),)


class _Remembers(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        if not hasattr(self, "scale"):
            self.scale = torch.arange(3).to(x)
        return (x * self.scale,)


@pytest.mark.parametrize("network", [_Repeats, _Writes, _Remembers])
def test_what_user_code_does_with_the_batch_or_in_place_is_captured_alike(network: type[nn.Module]) -> None:
    assert _same(network().eval(), torch.ones(3, 3), TARGETS["ort-cpu"].layouts[0], capture)


def test_capturing_leaves_nothing_in_the_network_and_makes_nothing_for_a_thousand_samples() -> None:
    network, x = _Remembers().eval(), torch.ones(3, 3)
    capture(network, (x,))
    assert not hasattr(network, "scale")
    largest = max(tensor.numel() for tensor in deploy(capture(_Repeats().eval(), (x,))).parameters())
    assert largest == 6


class _Branching(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x + 1 if x.sum() > 0 else x - 1,)


@pytest.mark.parametrize("trace", [capture, exported])
def test_a_network_that_branches_on_values_is_refused(trace: Any) -> None:
    with pytest.raises(PruneError, match="torch.export cannot .* data-dependent"):
        trace(_Branching().eval(), (torch.ones(3, 2),))


class _Mismatched(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (torch.cat([x, x.new_ones(3, 5)]),)


@pytest.mark.parametrize("trace", [capture, exported])
def test_what_does_not_run_is_an_error_and_no_traceback_of_torch(trace: Any, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(PruneError, match="Sizes of tensors must match"):
        trace(_Mismatched().eval(), (torch.ones(3, 2),))
    assert not caplog.records


def test_an_ordinary_network_needs_no_torch_export(monkeypatch: pytest.MonkeyPatch) -> None:
    captured: list[Any] = []
    export = torch.export.export
    monkeypatch.setattr(capturing.torch.export, "export", lambda *a, **k: captured.append(a) or export(*a, **k))
    gated, _ = zoo.make_gated("many_rules", tasks=2, p=0.3)
    prune(gated, target="ort-cpu")
    assert not captured


class _Head(nn.Module):
    """Not traceable, and remembers a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "scale"):
            self.scale = torch.arange(3).to(x)
        return self.linear(x.mean((2, 3)))[:, : len(list(x.shape))] * self.scale


def test_heads_that_remember_are_pruned_for_a_target() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    heads = {task: _Head() for task in ("a", "b")}
    gated = gate(backbone.eval(), tasks=("a", "b"), example_inputs=(torch.randn(2, 3, 8, 8),), heads=heads).eval()
    assert verify(gated, prune(gated, target="ort-cpu")).passed


def written_temporary(x: Tensor) -> Tensor:
    y = x * 2
    z = y.add_(1)
    return y + z


def written_and_returned(x: Tensor) -> Tensor:
    y = x * 2
    y.clamp_(min=0)
    return y


def written_through_a_view(x: Tensor) -> Tensor:
    y = x * 2
    y[:, 0].mul_(3)
    return y


def written_behind_a_view(x: Tensor) -> Tensor:
    y = x * 2
    view = y.flatten(1)
    y.add_(1)
    return view * 1


def written_view_of_the_input(x: Tensor) -> Tensor:
    view = x.flatten(1)
    view.add_(1)
    return x * 1


@pytest.mark.parametrize(
    ("function", "is_recorded"),
    [
        (written_temporary, True),
        (written_and_returned, True),
        (written_through_a_view, False),
        (written_behind_a_view, False),
        (written_view_of_the_input, False),
    ],
)
def test_writes_are_recorded_where_no_other_tensor_shares_the_memory(
    function: Callable[[Tensor], Tensor], is_recorded: bool
) -> None:
    """Every write was left to torch.export, which takes ten times as long."""

    class Writes(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (function(x),)

    example = torch.randn(2, 3, 4)
    found = capture(Writes(), (example,))(example.clone())
    torch.testing.assert_close(found[0], function(example.clone()))
    if is_recorded:
        recorded(Writes(), (example,))
    else:
        with pytest.raises(UnrecordedError, match="writes into its input"):
            recorded(Writes(), (example,))
