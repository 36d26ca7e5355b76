"""The table of operators names what exists in torch, each of it once, and every operator does what its table says."""

import itertools
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from gate2static.program import operators as table

X = torch.rand(2, 4, 6, 6, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
CHANNELS = torch.tensor([2, 0, 3, 1])

NAMES = {
    "pointwise": table.POINTWISE_FUNCTIONS,
    "spatial": table.SPATIAL_FUNCTIONS,
    "along dims": frozenset(table.FUNCTIONS_ALONG_DIMS),
    "moves": table.MOVES,
    "splits": table.SPLITS,
}
LAYERS = {
    "weights": table.WEIGHT_LAYERS,
    "norms": (*table.BATCH_NORMS, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm),
    "activations": (*table.ACTIVATION_LAYERS, *table.RANDOM_ACTIVATION_LAYERS),
    "spatial": table.SPATIAL_LAYERS,
    "softmax": table.SOFTMAX_LAYERS,
    "moves": table.MOVE_LAYERS,
    "features last": table.FEATURES_LAST,
}
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("add", "sub", "mul", "div", "truediv", "iadd", "rsub", "pow"), (2.0,)),
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max"), (0.5,)),
    **dict.fromkeys(("threshold", "_threshold"), (0.5, 0.1)),
    "masked_fill": (torch.tensor(True), 0.5),
    "to": (torch.float64,),
    **dict.fromkeys(("view", "reshape"), ((2, 24, 6),)),
    **dict.fromkeys(("view_as", "reshape_as"), (torch.empty(2, 24, 6),)),
    **dict.fromkeys(("transpose", "movedim"), (1, 2)),
    "unflatten": (1, (2, 2)),
    "permute": ((0, 2, 1, 3),),
    "unsqueeze": (1,),
    "flip": ((1,),),
    "select": (1, 0),
    "narrow": (1, 0, 2),
    **dict.fromkeys(("getitem", "__getitem__"), (slice(1),)),
    "roll": (1, 1),
    "rot90": (1, (2, 3)),
    **dict.fromkeys(("expand", "broadcast_to"), ((3, 2, 4, 6, 6),)),
    "expand_as": (torch.empty(3, 2, 4, 6, 6),),
    **dict.fromkeys(("repeat", "tile"), ((2, 1, 1, 1),)),
    "repeat_interleave": (2, 1),
    **dict.fromkeys(("chunk", "tensor_split", "hsplit", "vsplit"), (2,)),
    "split": (1,),
    "split_with_sizes": ((1, 1),),
    "dsplit": (3,),
    "interpolate": ((3, 3),),
    "upsample": ((3, 3),),
}

ELEMENTWISE = [
    *sorted(table.ELEMENTWISE_FUNCTIONS, key=lambda function: (function.__name__, str(function.__doc__))),
    *sorted(table.ELEMENTWISE_METHODS),
]


def named(name: str) -> Callable[..., Any] | None:
    """What a node calls for which `function_name` returns this name; None where there is no such thing."""
    for place in (F, torch, operator, torch.linalg):
        for function in vars(place).values():
            if callable(function) and getattr(function, "__name__", "") == name and _call(function) == name:
                return function
    return getattr(Tensor, name, None)


def _call(function: Any) -> str:
    return "" if isinstance(function, type) else table.function_name(fx.Graph().call_function(function, ()))


def test_every_name_is_one_of_torchs() -> None:
    assert [name for names in NAMES.values() for name in names if named(name) is None] == []


@pytest.mark.parametrize("tables", [NAMES, LAYERS], ids=["functions", "layers"])
def test_an_operator_is_in_one_table(tables: dict[str, Any]) -> None:
    for (first, a), (second, b) in itertools.combinations(tables.items(), 2):
        assert set(a).isdisjoint(b), f"{first} and {second} share {set(a) & set(b)}"
        assert len(set(a)) == len(a)


@pytest.mark.parametrize("name", sorted(table.POINTWISE_FUNCTIONS))
def test_a_pointwise_function_maps_every_element_by_itself(name: str) -> None:
    function, x = named(name), X.mul(9).long() if name == "bitwise_not" else X
    assert function is not None
    order = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(1))
    shuffled = x.flatten()[order].view(x.shape)
    arguments = ARGUMENTS.get(name, ())
    expected = function(x.clone(), *arguments).flatten()[order].view(x.shape)
    torch.testing.assert_close(function(shuffled, *arguments), expected)


@pytest.mark.parametrize("kind", table.ACTIVATION_LAYERS, ids=lambda kind: kind.__name__)
def test_an_activation_maps_every_element_by_itself_in_training(kind: Any) -> None:
    layer = kind(0.3, 0.1) if kind is nn.Threshold else kind()
    torch.testing.assert_close(layer.train()(X[:, CHANNELS]), layer(X)[:, CHANNELS])


def test_a_random_activation_differs_from_call_to_call() -> None:
    for kind in table.RANDOM_ACTIVATION_LAYERS:
        layer = kind().train()
        assert not torch.equal(layer(-X), layer(-X))


@pytest.mark.filterwarnings("ignore:`nn.functional.upsample` is deprecated")
@pytest.mark.parametrize("name", sorted(table.SPATIAL_FUNCTIONS))
def test_a_spatial_function_keeps_channels_apart(name: str) -> None:
    function, x = named(name), _positions(table.window_dims(name) or 2)
    assert function is not None
    arguments = ARGUMENTS.get(name, (2.0, 2) if name.startswith("lp") else (2,))
    torch.testing.assert_close(function(x[:, CHANNELS], *arguments), function(x, *arguments)[:, CHANNELS])


@pytest.mark.parametrize("kind", table.SPATIAL_LAYERS, ids=lambda kind: kind.__name__)
def test_a_spatial_layer_keeps_channels_apart(kind: Any) -> None:
    x = _positions(table.window_dims(kind.__name__) or 2)
    options: dict[Any, tuple[Any, ...]] = {nn.Upsample: (3,), nn.ConstantPad1d: (1, 0.5), nn.ConstantPad2d: (1, 0.5)}
    options |= dict.fromkeys((nn.LPPool1d, nn.LPPool2d), (2.0, 2)) | dict.fromkeys(table.INSTANCE_NORMS, (4,))
    layer = kind(*options.get(kind, (2,)))
    torch.testing.assert_close(layer(x[:, CHANNELS]), layer(x)[:, CHANNELS])


def _positions(dims: int) -> Tensor:
    """(2, 4, *positions) with this many dimensions of positions."""
    return X.view(2, 4, *{1: (36,), 2: (6, 6), 3: (3, 2, 6)}[dims])


@pytest.mark.parametrize(("name", "position"), table.FUNCTIONS_ALONG_DIMS.items())
def test_a_function_along_a_dimension_keeps_channels_elsewhere_apart(name: str, position: int) -> None:
    function = named(name)
    assert function is not None
    arguments = (*[2.0] * (position - 1), -1)
    torch.testing.assert_close(function(X[:, CHANNELS], *arguments), function(X, *arguments)[:, CHANNELS])


@pytest.mark.parametrize("function", ELEMENTWISE, ids=lambda function: getattr(function, "__name__", function))
def test_an_elementwise_function_lines_its_operands_up(function: Any) -> None:
    name = getattr(function, "__name__", function)
    function = getattr(Tensor, function) if isinstance(function, str) else function
    operands = [X + 1, X.flip(1) + 1]
    if name in ("and_", "or_"):
        operands = [x > 1.5 for x in operands]
    if name in ("lerp", "addcmul", "addcdiv"):
        operands.append(X)
    if name == "masked_fill":
        operands = [X, X > 0.5, torch.tensor(2.0)]
    if name == "where":
        operands.insert(1 if function is Tensor.where else 0, X > 0.5)
    shuffled = [x[:, CHANNELS] if x.dim() else x for x in operands]
    torch.testing.assert_close(function(*shuffled), function(*operands)[:, CHANNELS])


@pytest.mark.parametrize("name", sorted(table.MOVES | table.SPLITS))
def test_a_move_makes_no_number(name: str) -> None:
    function, x = named(name), X[0, 0] if name == "t" else X
    assert function is not None
    moved = function(x, *ARGUMENTS.get(name, ()))
    parts = [moved] if name in table.MOVES else list(moved)
    assert all(torch.isin(part, x).all() for part in parts)
    assert len(parts) > 1 or name in table.MOVES


def test_weights_have_their_output_channels_where_the_table_says() -> None:
    for kind in table.PLAIN_CONVOLUTIONS:
        assert kind(4, 6, 3, groups=2).weight.shape[:2] == (6, 2)
    for kind in table.TRANSPOSED_CONVOLUTIONS:
        assert kind(4, 6, 3, groups=2).weight.shape[:2] == (4, 3)


def test_a_users_function_has_no_name_of_torchs() -> None:
    def relu(x: Tensor) -> Tensor:
        return x

    assert table.function_name(fx.Graph().call_function(relu, ())) == ""
