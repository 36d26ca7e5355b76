"""Channels of tokens that are moved as rows: the same function and MACs, without picking number by number."""

from importlib import import_module
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, fx, nn

from gate2static.export import export_onnx
from gate2static.gates import gate
from gate2static.prune import Layout, expected_macs, prune
from gate2static.static import StaticModel, load_static
from gate2static.static.aten import annotate, shape_of
from gate2static.static.capturing.capture import capture, store
from gate2static.static.deploy.compose_permutations import compose_permutations, pick_before_permuting
from gate2static.static.deploy.decompose_attention import decompose_attention, transpose_products
from gate2static.static.deploy.pipeline import deploy
from gate2static.static.deploy.token_regions import token_regions
from gate2static.verify import verify
from tests import zoo

pytestmark = pytest.mark.slow

rows: Any = import_module("gate2static.static.deploy.token_moves_as_rows")
regions: Any = import_module("gate2static.static.deploy.token_regions")
writer: Any = import_module("gate2static.static.deploy.token_region_writer")
ROWS = Layout(channels_first=True)
_aten = torch.ops.aten


class Tokens(nn.Module):
    """A residual stream of tokens with a class token, an attention whose channels are picked, a layer of its own."""

    def __init__(self, width: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.stem, self.token = nn.Conv2d(3, width, 4, 4), nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 10, width))
        self.qkv, self.project, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.project(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return (x + self.down(nn.functional.gelu(self.up(self.norm(x))))).mean(1)


class ChannelsLast(nn.Module):
    """A residual layer on images with their channels last, as a ConvNeXt has it."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem, self.scale = nn.Conv2d(3, width, 3), nn.Parameter(torch.rand(width))
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        return (x + self.scale * self.down(self.up(self.norm(x)).relu())).permute(0, 3, 1, 2).mean((2, 3))


def _pruned(backbone: nn.Module, **options: Any) -> tuple[Any, StaticModel]:
    torch.manual_seed(0)
    x, names = torch.randn(2, 3, 12, 12), ["a", "b", "c"]
    width = backbone(x).shape[1]
    heads = {task: nn.Linear(width, 2) for task in names}
    gated = zoo.randomise(gate(backbone.eval(), tasks=names, example_inputs=(x,), heads=heads, **options), 0.4)
    return gated, prune(gated, target=ROWS, dtype=torch.float64)


@pytest.fixture(scope="module")
def tokens() -> StaticModel:
    """Pruned with a gate for each channel; not to be changed."""
    return _pruned(Tokens(), group_size=1)[1]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows wherever they can be, also where they do not pay."""
    monkeypatch.setattr(rows, "_pays", lambda _region: True)


@torch.no_grad()
def _error(static: StaticModel) -> float:
    inputs = [x.double() for x in static.example_inputs(3)]
    expected, found = static.double()(*inputs).values(), static.double().deployed()(*inputs).values()
    return float(zoo.relative_error(expected, found))


def _calls(network: fx.GraphModule, target: Any) -> list[fx.Node]:
    return list(network.graph.find_nodes(op="call_function", target=target))


def _picked_last(static: StaticModel) -> int:
    """Gathers along a dimension behind positions, of the deployed form."""
    network = static.deployed().network
    return sum(node.args[1] > 1 for node in _calls(network, _aten.index_select.default))  # type: ignore[operator]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(("group_size", "mixing"), [(1, "softmax"), (4, "softmax"), (16, "hard")])
@pytest.mark.parametrize("backbone", [Tokens, ChannelsLast])
def test_the_deployed_form_computes_the_same(backbone: Any, group_size: int, mixing: str) -> None:
    gated, static = _pruned(backbone(), group_size=group_size, mixing=mixing)
    assert static.manifest.channels_first
    assert _picked_last(static) == 0
    assert _error(static) <= 1e-12
    assert verify(gated, static).passed
    x = torch.randn(1, 3, 12, 12).double()
    assert zoo.counted_macs(static.deployed(), (x,)) == static.manifest.macs.static == int(expected_macs(gated))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("network", ["token_rules", "many_rules"])
def test_any_network_computes_the_same(network: str) -> None:
    gated, _ = zoo.make_gated(network, tasks=3, p=0.4)
    assert _error(prune(gated, target=ROWS, dtype=torch.float64)) <= 1e-12


def test_rows_are_moved_where_channels_would_be_picked_one_by_one(tokens: StaticModel) -> None:
    assert _picked_last(StaticModel(tokens.network, tokens.manifest.model_copy(update={"channels_first": False}))) > 0
    assert _picked_last(tokens) == 0
    _, wide = _pruned(Tokens(64), group_size=32)
    assert _picked_last(wide) > 0


@pytest.mark.usefixtures("always")
def test_what_tasks_gather_from_the_same_layers_is_put_side_by_side_once(tokens: StaticModel) -> None:
    network = tokens.deployed().network
    annotate(network, tokens.example_inputs())
    picks = [n for n in _calls(network, _aten.index_select.default) if len(shape_of(n) or ()) == 3]
    stacks = {n.args[0] for n in picks}
    parts: list[Any] = [part for stack in stacks if stack.target is _aten.cat.default for part in stack.args[0]]  # type: ignore[union-attr]
    turned = [part for part in parts if part.target is _aten.permute.default]
    assert len(stacks) < len(picks)
    assert len(turned) == len(set(turned)) > 0


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("planted", ["channels", "constant"])
def test_a_wrong_row_is_noticed(planted: str, tokens: StaticModel, monkeypatch: pytest.MonkeyPatch) -> None:
    moved, constant = regions._moved, writer.constant
    if planted == "channels":
        monkeypatch.setattr(regions, "_moved", lambda *args: moved(*args).flip(0))
    else:
        monkeypatch.setattr(writer, "constant", lambda network, node: constant(network, node).flip(-1))
    assert _error(tokens) > 1e-6


def test_a_saved_network_is_deployed_alike(tokens: StaticModel, tmp_path: Path) -> None:
    tokens.save(tmp_path / "tokens")
    loaded, x = load_static(tmp_path / "tokens"), [x.double() for x in tokens.example_inputs(2)]
    expected, found = tokens.deployed()(*x), loaded.deployed()(*x)
    assert all(torch.equal(a, b) for a, b in zip(expected.values(), found.values(), strict=True))
    assert _picked_last(loaded) == _picked_last(loaded.deployed()) == 0


def test_onnx_runtime_computes_the_same_and_gathers_rows(tokens: StaticModel, tmp_path: Path) -> None:
    report = export_onnx(tokens, tmp_path / "model.onnx")
    assert max(report.errors.values()) < 5e-5
    gathers = [node for node in onnx.load(tmp_path / "model.onnx").graph.node if node.op_type == "Gather"]
    assert gathers
    assert all(onnx.helper.get_node_attr_value(node, "axis") < 2 for node in gathers)


class _Permuting(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        turned = x.permute(0, 2, 1, 3).transpose(1, 3).movedim(1, 2)
        return (turned.index_select(2, torch.tensor([2, 0])).permute(0, 3, 2, 1),)


def test_permutations_of_permutations_are_one() -> None:
    x = torch.randn(3, 4, 5, 6)
    network = capture(_Permuting(), (x,))
    annotate(network, (x,))
    assert compose_permutations(network)
    assert pick_before_permuting(network)
    assert compose_permutations(network)
    assert not compose_permutations(network)
    assert not pick_before_permuting(network)
    network.recompile()
    (picked,) = _calls(network, _aten.index_select.default)
    assert picked.args[0].op == "placeholder"  # type: ignore[union-attr]
    assert len(_calls(network, _aten.permute.default)) <= 1
    assert torch.equal(network(x)[0], _Permuting()(x)[0])


class _LookAlikes(nn.Module):
    """Picks along the second dimension, before the batch, and from what has no batch."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("other", torch.tensor([1]))
        self.register_buffer("index", torch.tensor([2, 0, 1]))
        self.token = nn.Parameter(torch.randn(1, 4, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        index = self.get_buffer("index")
        before = x.transpose(0, 1).index_select(2, index)
        return x.index_select(1, index), before.transpose(0, 1), x + self.token.exp().index_select(2, index)


def test_what_only_looks_like_channels_behind_positions_is_no_region() -> None:
    x = torch.randn(3, 4, 3)
    network = capture(_LookAlikes(), (x,))
    annotate(network, (x,))
    assert len(_calls(network, _aten.index_select.default)) == 3
    assert not any(token_regions(network, positions) for positions in (1, 2))


class _Attention(nn.Module):
    """Attention by itself, with a mask, and read transposed."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        attend = nn.functional.scaled_dot_product_attention
        return attend(q, k, v), attend(q, k, v, scale=2.0), attend(k, q, q[..., :2]).transpose(2, 3)


def test_only_plain_attention_becomes_products_and_is_transposed_before_it_is_computed() -> None:
    inputs = tuple(torch.randn(3, 2, length, 4) for length in (5, 6, 6))
    network = capture(_Attention(), inputs)
    annotate(network, inputs)
    compose_permutations(network)
    products = decompose_attention(network)
    assert len(products) == 2
    assert transpose_products(products)
    compose_permutations(network)
    assert not decompose_attention(network)
    assert not transpose_products(products)
    network.recompile()
    assert len(_calls(network, _aten.scaled_dot_product_attention.default)) == 1
    (output,) = network.graph.find_nodes(op="output")
    read: Any = output.args[0]
    assert [node.target for node in (read[0], read[2])] == [_aten.matmul.default] * 2
    for found, expected in zip(network(*inputs), _Attention()(*inputs), strict=True):
        torch.testing.assert_close(found, expected)


class _Calls(nn.Module):
    """Any function of tokens, two layers and an index of channels."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.first, self.second = function, nn.Linear(6, 6), nn.Linear(6, 6)
        self.register_buffer("other", torch.tensor([1]))
        self.register_buffer("index", torch.tensor([5, 0, 3, 2, 1, 4]))
        self.register_buffer("number", torch.tensor(0.5, dtype=torch.float64))
        self.register_buffer("scale", torch.rand(3, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        result = self.function(self, x)
        return result if isinstance(result, tuple) else (result,)


def _pick(net: Any, x: Tensor) -> Tensor:
    return x.index_select(2, net.index)


_attend = nn.functional.scaled_dot_product_attention
ODD = {
    "a constant without dimensions": lambda net, x: net.second(_pick(net, net.first(x)) * net.number),
    "an index that is computed": lambda net, x: net.second(_pick(net, net.first(x)).index_select(2, net.index.flip(0))),
    "one tensor put side by side": lambda net, x: (torch.cat([_pick(net, net.first(x))]), torch.cat([net.first(x)])),
    "the same tensor twice": lambda net, x: torch.cat([_pick(net, x), x, x], 2).index_select(2, net.index),
    "attention of one head": lambda net, x: net.second(_pick(net, _attend(x, x, x))),
    "attention of attention": lambda net, x: net.second(_pick(net, _attend(_attend(x, x, x), _attend(x, x, x), x))),
    "attention side by side": lambda net, x: _pick(net, torch.cat([_attend(x, x, x), _attend(x * 2, x, x)], 2)),
    "no channels": lambda net, x: (_pick(net, x), x.index_select(2, net.index[:0])),
    "channels of other dtypes": lambda net, x: torch.cat([_pick(net, x), _pick(net, x > 0)], 2).narrow(2, 0, 6),
    "values in and outside": lambda net, x: (_pick(net, x) + x, _pick(net, x), _pick(net, _pick(net, x) + x), x),
    "complex numbers behind a view": lambda net, x: torch.view_as_complex(
        _pick(net, x).unflatten(2, (1, 3, 2)).unbind(2)[0]
    ).abs(),
    "complex numbers": lambda net, x: torch.view_as_complex(_pick(net, x).unflatten(2, (3, 2))).abs(),
    "another memory format": lambda net, x: (
        _pick(net, x).unflatten(2, (3, 2)).clone(memory_format=torch.channels_last).flatten(2)
    ),
    "broadcast scales": lambda net, x: (_pick(net, x).unflatten(2, (3, 2)) * net.scale).flatten(2),
    "broadcast positions": lambda net, x: _pick(net, x) + _pick(net, x.mean(1, keepdim=True)),
    "whole numbers": lambda net, x: _pick(net, (x * 9).long()) * 2,
    "tokens that become images": lambda net, x: (_pick(net, net.first(x)).unflatten(1, (5, 1)) * 1.0).index_select(
        3, net.index
    ),
    "positions picked": lambda net, x: _pick(net, x).index_select(1, net.index[3:]).narrow(-2, 0, 2),
    "what nothing reads": lambda net, x: (x.index_select(2, net.other), _pick(net, net.first(x)) + _pick(net, x))[1],
}


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("function", ODD.values(), ids=ODD)
def test_odd_operators_compute_the_same(function: Any) -> None:
    torch.manual_seed(0)
    module, x = _Calls(function).eval().double(), torch.randn(3, 5, 6).double()
    network = capture(module, (x,))
    for found, expected in zip(deploy(network, (x,), channels_first=True)(x), module(x), strict=True):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_number_of_another_dtype_converts_nothing() -> None:
    module, x = _Calls(lambda net, x: net.second(_pick(net, net.first(x)) * net.number)).eval(), torch.randn(3, 5, 6)
    assert deploy(capture(module, (x,)), (x,), channels_first=True)(x)[0].dtype == torch.float32


@pytest.mark.parametrize("target", [_aten.index_select.default, _aten.mul.Tensor, _aten.permute.default])
def test_arguments_by_name_are_left_alone(target: Any) -> None:
    """`torch.export` does not write them; a file from elsewhere may."""
    module = _Calls(lambda net, x: _pick(net, x.permute(0, 2, 1).permute(0, 2, 1)) * _pick(net, net.first(x))).eval()
    x = torch.randn(3, 5, 6)
    network = capture(module, (x,))
    for node in _calls(network, target):
        names = [argument.name for argument in target._schema.arguments[1 : len(node.args)]]
        node.kwargs, node.args = dict(zip(names, node.args[1:], strict=True)), node.args[:1]
    torch.testing.assert_close(deploy(network, (x,), channels_first=True)(x), module(x))


def test_names_of_stored_tensors_are_free() -> None:
    root = nn.Module()
    root.register_buffer("buffer_1", torch.zeros(1))
    names = [store(root, torch.zeros(1), trained=trained) for trained in (False, False, True)]
    assert names == ["buffer_2", "buffer_3", "parameter_0"]
