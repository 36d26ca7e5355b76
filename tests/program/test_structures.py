"""Structures are taken apart into tensors and put together as they were, and networks may take and return them."""

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gate2static.gates import gate, set_gates
from gate2static.program.structures import follow, take_apart
from gate2static.prune import prune
from gate2static.verify import verify

X = torch.randn(2, 3, 8, 8)


@dataclass
class Plain:
    low: Tensor
    high: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Frozen:
    low: Tensor
    rest: Any = None


@dataclass
class Computes:
    """Its constructor must not run twice: it would halve `low` again."""

    low: Tensor

    def __post_init__(self) -> None:
        self.low = self.low / 2
        self.twice = self.low * 2


class Named(NamedTuple):
    low: Tensor
    high: Tensor


class Output(OrderedDict[str, Any]):
    """A dict with attributes that is registered with torch's pytree, as the outputs of Hugging Face are."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]


pytree.register_pytree_node(
    Output,
    lambda output: (list(output.values()), list(output)),
    lambda values, names: Output(zip(names, values, strict=True)),
    serialized_type_name="tests.Output",
)

STRUCTURES = {
    "tensor": lambda a, b: a,
    "tuple": lambda a, b: (a, [b], None),
    "dict": lambda a, b: {"low": a, "more": {"high": b, 3: (a,)}},
    "dataclass": Plain,
    "dataclass with None": lambda a, b: Plain(a),
    "frozen": lambda a, b: Frozen(a, {"high": Plain(b)}),
    "computed": lambda a, b: Computes(a),
    "named tuple": Named,
    "registered": lambda a, b: Output(low=a, high=(b, Named(b, a))),
}


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    if dataclasses.is_dataclass(a):
        names = {f.name for f in dataclasses.fields(a)} | set(getattr(a, "__dict__", {}))
        return all(_equal(getattr(a, name), getattr(b, name)) for name in names)
    return bool(a == b)


@pytest.mark.parametrize("name", STRUCTURES)
def test_what_is_taken_apart_is_put_together_as_it_was(name: str) -> None:
    value = STRUCTURES[name](torch.ones(2), torch.zeros(3))
    tensors, structure = take_apart(value)
    assert _equal(structure.build(tensors), value)
    assert all(follow(path, value) is tensor for path, tensor in zip(structure.paths, tensors, strict=True))


class Returns(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.name = name

    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        return STRUCTURES[self.name](y.relu(), self.second(y))


class Reads(nn.Module):
    """A head that reads all that it is given, in the structure of the backbone."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.layer = nn.Conv2d(6, 2, 1)

    def forward(self, features: Any) -> Tensor:
        tensors, structure = take_apart(features)
        # The structure is the user's own, and not a tuple of tensors.
        assert type(features) is type(STRUCTURES[self.name](X, X)) or structure.is_tensor
        return sum(self.layer(tensor) * (number + 1) for number, tensor in enumerate(tensors))  # type: ignore[return-value]


@pytest.mark.parametrize("name", STRUCTURES)
def test_heads_are_given_the_backbones_own_structure(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A dataclass used to end in torch's RuntimeError and a page of its log, a named tuple was refused."""
    torch.manual_seed(0)
    backbone = Returns(name).eval()
    gated = gate(backbone, tasks=["a", "b"], example_inputs=(X,), heads={t: Reads(name) for t in "ab"}).eval()
    set_gates(gated, False)
    torch.testing.assert_close(gated(X)["a"], gated.heads["a"](backbone(X)))
    set_gates(gated, {unit: torch.rand_like(g.alpha) < 0.5 for unit, g in gated.gates.items()})
    assert verify(gated, prune(gated)).passed
    assert capfd.readouterr() == ("", "")


class Undone(nn.Module):
    """torch.fx cannot follow it, since it insists on a tensor; it runs whole and returns a structure."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 6, 1)
        self.name = name

    def forward(self, x: Tensor) -> Any:
        y = self.layer(x)
        if not isinstance(y, Tensor):
            raise TypeError("no tensor")
        return STRUCTURES[self.name](y, y + 1)


@pytest.mark.parametrize("name", ["tuple", "dict", "dataclass", "named tuple", "registered"])
def test_a_whole_modules_structure_may_be_what_a_backbone_returns(name: str) -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 3, 1), Undone(name)).eval()
    gated = gate(backbone, tasks=["a"], example_inputs=(X,), heads={"a": Reads(name)}).eval()
    assert gated.program.graph.find_nodes(op="call_module", target="1")
    set_gates(gated, False)
    torch.testing.assert_close(gated(X)["a"], gated.heads["a"](backbone(X)))
    assert verify(gated, prune(gated)).passed


@pytest.mark.parametrize(
    "make", [lambda x: Plain(x, x * 2), lambda x: Named(x, x * 2), lambda x: {"low": x, "no": None}]
)
def test_backbones_may_take_structures(make: Any) -> None:
    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 1)

        def forward(self, views: Any) -> Tensor:
            low = views["low"] if isinstance(views, dict) else views.low
            return self.layer(low)

    backbone = Takes().eval()
    gated = gate(backbone, tasks=["a"], example_inputs=(make(X),), heads={"a": nn.Identity()}).eval()
    set_gates(gated, False)
    torch.testing.assert_close(gated(make(X))["a"], backbone(make(X)))
    assert verify(gated, prune(gated)).passed


def test_a_structure_may_be_the_output_as_it_is() -> None:
    """`nn.Identity` became one call on the tensors alone, which then had no keys."""

    class Levels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fine = nn.Conv2d(3, 4, 1)
            self.coarse = nn.Conv2d(4, 4, 3, stride=2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            fine = self.fine(x)
            return {"fine": fine, "coarse": self.coarse(fine)}

    heads = {"a": nn.Identity(), "b": nn.Identity()}
    gated = gate(Levels().eval(), tasks=["a", "b"], example_inputs=(X,), heads=heads).eval()
    static = prune(gated)
    assert {output.name for output in static.manifest.outputs} == {"a.fine", "a.coarse", "b.fine", "b.coarse"}
    torch.testing.assert_close(static(X), gated(X))
    assert verify(gated, static).passed
