"""Channels that are moved by convolutions: the same function, without what breaks the layout of layers' tensors."""

from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from scipy.sparse import csr_array
from torch import nn

from gate2static.export import export_onnx
from gate2static.gates import gate, set_gates
from gate2static.prune import TARGETS, expected_macs, prune
from gate2static.static import StaticModel, load_static
from gate2static.static.aten import annotate, shape_of
from gate2static.static.deploy.pipeline import deploy
from gate2static.verify import verify
from tests import zoo

pytestmark = pytest.mark.slow

convolve: Any = import_module("gate2static.static.deploy.moves_as_convolutions")
CONVOLVED = TARGETS["ort-cpu"].layouts[-1]


def _moves(network: torch.fx.GraphModule, x: torch.Tensor) -> list[str]:
    """What picks or scales channels of images other than by a convolution."""
    annotate(network, (x,))
    targets = [str(n.target) for n in network.graph.nodes if n.op == "call_function" and len(shape_of(n) or ()) == 4]
    return [t for t in targets if any(move in t for move in ("index_select", "narrow", "mul"))]


def _layers(network: torch.fx.GraphModule) -> list[tuple[int, ...]]:
    weights = [n.args[1].target for n in network.graph.nodes if "conv2d" in str(n.target)]
    return [tuple(network.get_parameter(str(w)).shape) for w in weights]


@pytest.fixture(scope="module")
def mixed() -> StaticModel:
    """A network with gates of all kinds; not to be changed."""
    torch.manual_seed(0)
    return prune(zoo.make_gated("resnet12", tasks=2, p=0.4, group_size=4)[0], target=CONVOLVED)


@torch.no_grad()
def _error(static: StaticModel) -> float:
    static, inputs = deepcopy(static).double(), [x.double() for x in static.example_inputs(2)]
    expected, found = static(*inputs).values(), static.deployed()(*inputs).values()
    return float(zoo.relative_error(expected, found))


_KINDS_OF_GATES = ((1, "softmax"), (4, "softmax"), (4, "hard"))
# Small networks with every kind of gates; of whole ones, the residual streams and the dense blocks with one kind each.
_DEPLOYED = [
    *((name, *gates) for name in ("two_scales", "many_rules", "token_rules") for gates in _KINDS_OF_GATES),
    ("resnet6", 1, "softmax"),
    ("resnet12", 4, "hard"),
    ("densenet", 4, "softmax"),
]


@pytest.mark.parametrize(("network", "group_size", "mixing"), _DEPLOYED)
def test_the_deployed_form_computes_the_same(network: str, group_size: int, mixing: str) -> None:
    gated, _ = zoo.make_gated(network, tasks=2, p=0.4, group_size=group_size, mixing=mixing)
    static = prune(gated, target=CONVOLVED, dtype=torch.float64)
    assert static.manifest.convolve_moves
    assert _error(static) <= 1e-12


@pytest.mark.parametrize("p", [0.1, 0.8])
def test_no_move_is_left_and_macs_are_those_of_the_network(p: float) -> None:
    gated, x = zoo.make_gated("resnet12", tasks=3, p=p, group_size=4)
    static = prune(gated, target=CONVOLVED)
    assert _moves(deploy(static.network), x)
    assert not _moves(static.deployed().network, x)
    assert zoo.counted_macs(static, (x,)) == static.manifest.macs.static == int(expected_macs(gated))
    assert verify(gated, static).passed


@pytest.mark.parametrize("specific", [False, True])
def test_networks_without_mixed_gates_have_nothing_to_move(specific: bool) -> None:
    gated, _ = zoo.make_gated("resnet12", tasks=2)
    set_gates(gated, specific)
    static = prune(gated, target=CONVOLVED)
    assert _layers(static.deployed().network) == _layers(deploy(static.network))


def test_a_saved_network_is_deployed_alike(mixed: StaticModel, tmp_path: Path) -> None:
    mixed.save(tmp_path / "static")
    loaded, x = load_static(tmp_path / "static"), mixed.example_inputs(2)
    expected, found = mixed.deployed()(*x), loaded.deployed()(*x)
    assert all(torch.equal(a, b) for a, b in zip(expected.values(), found.values(), strict=True))
    assert _layers(loaded.deployed().deployed().network) == _layers(mixed.deployed().network)


class _Wide(nn.Module):
    """Two layers whose channels two tasks share in part."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, width, 3), nn.Conv2d(width, width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu()).relu().mean((2, 3))


def _first_layer_specific(width: int, channels: slice) -> list[tuple[int, ...]]:
    x, tasks = torch.randn(1, 3, 12, 12), ["a", "b"]
    heads = {task: nn.Linear(width, 2) for task in tasks}
    gated = gate(_Wide(width).eval(), tasks=tasks, example_inputs=(x,), heads=heads)
    decisions = {name: torch.zeros_like(g.decisions()) for name, g in gated.gates.items()}
    decisions["first"][0, channels] = True
    decisions["second"][:] = True
    set_gates(gated, decisions)
    return _layers(prune(gated, target=CONVOLVED).deployed().network)


def test_a_layer_with_nearly_all_channels_gets_zeros_for_the_others() -> None:
    layers = _first_layer_specific(64, slice(0, 60))
    assert layers.count((64, 3, 3, 3)) == 2
    assert (60, 3, 3, 3) not in layers


def test_a_narrow_layer_is_filled_up_to_a_block_and_spread_by_its_reader() -> None:
    layers = _first_layer_specific(64, slice(0, 10))
    assert (16, 3, 3, 3) in layers
    assert (64, 16, 1, 1) in layers
    assert (64, 1, 1, 1) in layers


@pytest.mark.parametrize(
    ("dense", "places"),
    [
        ([[[0, 1], [0, 0], [2, 0]], [[0, 0], [0, 0], [3, 0]]], [2, 0]),
        ([[[0, 1], [0, 0], [2, 0]], [[0, 0], [4, 0], [0, 0]]], None),  # to two places
        ([[[1, 1], [0, 0], [0, 0]]], None),  # to one place
        ([[[1, 0]], [[1], [0]]], None),  # sums of other sizes
    ],
)
def test_channels_have_one_place_in_all_sums_or_none(dense: list[Any], places: list[int] | None) -> None:
    found = convolve._places([csr_array(np.array(matrix, dtype=float)) for matrix in dense])
    assert (None if found is None else found.tolist()) == places


@pytest.mark.parametrize("planted", ["matrix", "weights"])
def test_a_wrong_matrix_is_noticed(planted: str, mixed: StaticModel, monkeypatch: pytest.MonkeyPatch) -> None:
    name = {"matrix": "_convolution", "weights": "_with_channels"}[planted]
    right = getattr(convolve, name)

    def wrong(network: Any, node: Any, what: Any, *rest: Any, **options: Any) -> Any:
        made = right(network, node, what[::-1].copy() if planted == "weights" else what.flip(0), *rest, **options)
        return convolve._SourceTensor(made.node, what) if planted == "weights" else made

    monkeypatch.setattr(convolve, name, wrong)
    assert _error(mixed) > 1e-6


def test_a_network_in_another_dtype_is_deployed_in_it(mixed: StaticModel) -> None:
    assert _error(mixed) <= 1e-12


class _Spatial(nn.Module):
    """One map of attention for all positions, spread over channels by a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.scale = (
            nn.Conv2d(3, 16, 3),
            nn.Conv2d(16, 1, 1),
            nn.Parameter(torch.rand(1, 16, 1, 1)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return (x + self.one(x) * self.scale).relu().mean((2, 3))


class _TokensFirst(nn.Module):
    """Tokens before the batch, scaled by one number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 16, 3), nn.Parameter(torch.rand(1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.conv(x).flatten(2).permute(2, 0, 1) * self.scale).relu().mean(0)


class _Computed(nn.Module):
    """A convolution whose weights the network computes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.weights = nn.Conv2d(3, 16, 3), nn.Linear(4, 16)
        self.register_buffer("basis", torch.rand(16, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return (nn.functional.conv2d(x, self.weights(self.basis)[..., None, None]) + x).relu().mean((2, 3))


class _SixDims(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 16, 3), nn.Parameter(torch.rand(16, 1, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.conv(x).reshape(-1, 16, 2, 5, 2, 5) * self.scale).relu().mean((2, 3, 4, 5))


class _Masked(nn.Module):
    """Masks along channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(3, 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.first(x), self.second(x)
        return (torch.cat([a, b], 1) * torch.cat([a > 0, b > 0.5], 1)).mean((2, 3))


class _Linear(nn.Module):
    """A residual stream without activations, as in a MobileNetV2."""

    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 16, 3), nn.ModuleList(nn.Conv2d(16, 16, 1) for _ in range(blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return x.mean((2, 3))


def _gated(backbone: nn.Module, p: float) -> Any:
    x, tasks = torch.randn(2, 3, 12, 12), ["a", "b", "c"]
    width = backbone(x).shape[1]
    heads = {task: nn.Linear(width, 2) for task in tasks}
    gated = gate(backbone.eval(), tasks=tasks, example_inputs=(x,), heads=heads, group_size=4)
    return zoo.randomise(gated, p)


@pytest.mark.parametrize("kind", [_Spatial, _TokensFirst, _Computed, _SixDims, _Masked, _Linear])
def test_what_only_looks_like_a_map_of_channels_stays(kind: type[nn.Module]) -> None:
    gated = _gated(kind(), 0.4)
    assert _error(prune(gated, target=CONVOLVED, dtype=torch.float64)) <= 1e-12
    assert verify(gated, prune(gated, target="ort-cpu")).passed


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_sums_along_a_stream_are_not_computed_again(p: float) -> None:
    counts = []
    for blocks in (4, 8, 12):
        static = prune(_gated(_Linear(blocks), p), target=CONVOLVED)
        counts.append(len(list(static.deployed().network.graph.nodes)))
    if p == 0:
        assert counts[2] - counts[1] == counts[1] - counts[0] == len(["add", "conv", "weight", "bias"]) * 4
    assert counts[2] < 4 * counts[0]


def test_moves_are_convolved_where_that_pays() -> None:
    fine, _ = zoo.make_gated("resnet6", tasks=2, p=0.25, group_size=16)
    assert prune(fine, target="ort-cpu").manifest.convolve_moves
    separate, _ = zoo.make_gated("resnet6", tasks=2, p=1.0, group_size=64, mixing="hard")
    assert not prune(separate, target="ort-cpu").manifest.convolve_moves


def test_onnx_runtime_computes_the_same(mixed: StaticModel, tmp_path: Path) -> None:
    report = export_onnx(mixed, tmp_path / "model.onnx")
    assert max(report.errors.values()) < 5e-5
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    on_images = operators[: operators.index("ReduceMean")]  # what the heads read has no positions
    assert "Gather" not in on_images
    assert "Conv" not in operators[len(on_images) :]
