"""Calls that do not fit: one sentence each, and nothing half done."""

import re
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gate2static as g2s
from gate2static.architectures import Architecture, architecture, as_gated
from gate2static.architectures.adashare import AdaShare
from gate2static.errors import ArchitectureError, GateError

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def backbone() -> nn.Sequential:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)]
    return nn.Sequential(OrderedDict(zip(("one", "two", "three"), parts, strict=True)))


def heads(*tasks: Any) -> dict[Any, Any]:
    return {task: nn.Conv2d(6, 1, 1) for task in tasks or ("a", "b")}


def build(name: str = "cross_stitch", **changes: Any) -> Architecture:
    arguments: dict[str, Any] = {"backbone": backbone(), "heads": heads(), "example_inputs": (X,), **changes}
    return architecture(name, arguments.pop("backbone"), **arguments)


CALLS: list[tuple[dict[str, Any], str]] = [
    *(({"heads": heads("a", name)}, r"task names \[.*\] are not allowed") for name in ("type", "keys", "a.b", "", 1)),
    ({"heads": {"a": nn.Conv2d(6, 1, 1), "b": torch.relu}}, r"the heads of \['b'\] are no torch.nn.Module"),
    ({"heads": {}}, "joins tasks, and there is 0"),
    ({"heads": None}, "heads is None; allowed is a dict of modules by task"),
    ({"backbone": torch.relu}, "the backbone is a builtin"),
    ({"places": 5}, "places is 5; allowed are"),
    ({"places": [1]}, r"places is \[1\]; allowed are"),
    ({"places": ["two", "one"]}, "places has 'one' behind 'two', which ends no earlier"),
    ({"places": ["one", "one"]}, "places has 'one' behind 'one', which ends no earlier"),
    ({"example_inputs": None}, "example_inputs is a NoneType"),
    ({"example_inputs": X}, "example_inputs is a Tensor"),
    ({"name": "adashare", "places": ["one", "two"], "warm_up": 0.9, "curriculum": 0.1}, "give less than 1 in all"),
    ({"name": "adashare", "places": ["one", "two"], "skips": {"c": [0]}}, "skips of adashare name 'c'; the tasks are"),
    ({"name": "adashare", "places": ["one", "two"], "skips": {"a": [1]}}, r"skips .* for a are \[1\]; .* from 0 to 0"),
    ({"name": "adashare", "places": ["one", "two"], "skips": [0]}, "skips of adashare is a list; allowed is a dict"),
    ({"name": "mtan", "places": ["one"]}, "mtan needs places in pairs of one shape"),
    ({"name": "mtan", "places": []}, "mtan needs places in pairs of one shape"),
    ({"name": "mtan", "places": ["one", "three"]}, "mtan needs places in pairs of one shape"),
]


@pytest.mark.parametrize(("changes", "message"), CALLS)
def test_odd_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        build(**changes)


def test_only_architectures_become_gated() -> None:
    with pytest.raises(ArchitectureError, match="architecture is a Sequential; allowed is a network"):
        as_gated(backbone(), (X,))  # type: ignore[arg-type]
    with pytest.raises(ArchitectureError, match="example_inputs is a NoneType"):
        as_gated(build(), None)  # type: ignore[arg-type]


def test_a_deployed_adashare_has_no_penalty() -> None:
    network = build("adashare", places=["one", "two"])
    assert isinstance(network, AdaShare)
    assert network.penalty() is not None
    assert network.deployed().penalty() is None


class Functional(nn.Module):
    """A backbone with a parameter that no layer owns; the trace makes a layer of it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))
        self.norm = nn.LayerNorm(4)
        self.end = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.norm(nn.functional.linear(x, self.weight)))


@pytest.mark.parametrize("kind", [Functional, backbone])
def test_streams_compute_what_the_backbones_they_start_from_compute(kind: Any) -> None:
    x = torch.randn(2, 3) if kind is Functional else X
    both = {task: nn.Identity() for task in "ab"}
    first, trained = kind(), kind()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    network = architecture("smtl", first, heads=both, example_inputs=(x,))
    network.load_streams(dict.fromkeys(("a", "public"), trained.state_dict()))
    outputs = network(x)
    torch.testing.assert_close(outputs["a"], trained(x))
    torch.testing.assert_close(outputs["b"], (trained(x) + first(x)) / 2)


STATES: list[tuple[Any, str]] = [
    ({"c": backbone().state_dict()}, "there is no stream 'c'; the streams are a, b."),
    (None, "states is None; allowed is a dict from stream"),
    ({"a": None}, "the state of stream 'a' is None; allowed is a state dict"),
    ({"a": {}}, "one.weight of shape (4, 3, 3, 3) is missing; give the `state_dict()` of the backbone itself"),
    ({"a": {f"backbone.{k}": v for k, v in backbone().state_dict().items()}}, "whose names have no prefix"),
    ({"a": {**backbone().state_dict(), "two.bias": torch.zeros(9)}}, "two.bias of shape (4,) is of shape (9,)"),
]


@pytest.mark.parametrize(("states", "message"), STATES)
def test_states_that_do_not_fit_are_refused_and_load_nothing(states: Any, message: str) -> None:
    network = build()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        others = {key: value + 1 for key, value in backbone().state_dict().items()}
    with pytest.raises(ArchitectureError, match=re.escape(message)):
        network.load_streams({"b": others, **states} if isinstance(states, dict) else states)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


class Pair(nn.Module):
    """A head that returns two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(6, 1, 1), nn.Conv2d(6, 2, 1)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layers[0](x), self.layers[1](x)


def test_public_decoders_may_return_several_tensors() -> None:
    torch.manual_seed(2)
    network = build("smtl_c", heads={"a": Pair(), "b": nn.Conv2d(6, 3, 1)}).eval()
    assert [value.shape[1] for value in network(X)["a"]] == [1, 2]
    gated = as_gated(network, (X,))
    static = g2s.prune(gated)
    assert g2s.verify(gated, static).passed
    torch.testing.assert_close(static(X)["a"][1], network(X)["a"][1], rtol=1e-4, atol=1e-5)


class ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = backbone()

    def forward(self, *, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"map": self.body(image * mask)}


class OfMap(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(6, 1, 1)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return self.layer(features["map"])


def test_what_is_called_by_name_is_so_as_a_gated_model() -> None:
    inputs = {"image": X, "mask": torch.rand(2, 1, 8, 8)}
    network = build(backbone=ByName(), heads={"a": OfMap(), "b": OfMap()}, example_inputs=inputs).eval()
    gated = as_gated(network, inputs)
    turned = {"mask": inputs["mask"], "image": inputs["image"]}
    torch.testing.assert_close(gated(**turned), network(**inputs))
    static = g2s.prune(gated)
    assert g2s.verify(gated, static).passed
    torch.testing.assert_close(static(*inputs.values()), network(**inputs), rtol=1e-4, atol=1e-5)
    with pytest.raises(GateError, match=r"the network takes \(image, mask\)"):
        network(image=X)


@pytest.mark.parametrize("name", ["cross_stitch", "smtl_c", "l_smtl", "l_smtl_c"])
def test_what_heads_share_stays_shared(name: str) -> None:
    stem = nn.Conv2d(6, 5, 1)
    tied: dict[str, nn.Module] = {task: nn.Sequential(stem, nn.Conv2d(5, 1, 1)) for task in "ab"}
    network = build(name, heads=tied)
    for found in (network, network.deployed()):
        of_a, of_b = (found.heads[task].get_submodule("0") for task in "ab")
        assert of_a is of_b
        assert of_a is not stem
