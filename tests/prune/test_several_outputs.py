"""Heads with several outputs: the gated model returns the head's own structure, files name each `task.part`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest
import torch
from torch import Tensor, nn

from gate2static.errors import ArtefactError
from gate2static.export import export_onnx
from gate2static.gates import GatedModel, gate, set_gates
from gate2static.prune import expected_macs, prune
from gate2static.static import StaticModel, load_static
from gate2static.verify import verify

X = torch.randn(2, 3, 8, 8)


@dataclass
class Detection:
    box: Tensor
    score: Tensor
    mask: Tensor | None = None


class Pair(NamedTuple):
    box: Tensor
    score: Tensor


STRUCTURES: dict[str, tuple[Any, list[str]]] = {
    "tuple": (lambda a, b: (a, b), ["det.0", "det.1"]),
    "list": (lambda a, b: [a, b], ["det.0", "det.1"]),
    "dict": (lambda a, b: {"box": a, "score": b}, ["det.box", "det.score"]),
    "dataclass": (Detection, ["det.box", "det.score"]),
    "named tuple": (Pair, ["det.box", "det.score"]),
    "nested": (lambda a, b: {"levels": [a, (None, b)]}, ["det.levels.0", "det.levels.1.1"]),
    "of other sizes": (lambda a, b: (a.mean((2, 3)), b.flatten(1)), ["det.0", "det.1"]),
}


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, depth: Tensor) -> Tensor:
        return self.second(self.first(depth).relu())


class Detector(nn.Module):
    def __init__(self, name: str, whole: bool = False) -> None:
        super().__init__()
        self.box, self.score = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.name, self.whole = name, whole

    def forward(self, features: Tensor) -> Any:
        if self.whole and not isinstance(features, Tensor):
            raise TypeError("torch.fx cannot follow this head")
        return STRUCTURES[self.name][0](self.box(features), self.score(features))


def make(name: str, whole: bool = False) -> GatedModel:
    torch.manual_seed(0)
    heads = {"det": Detector(name, whole), "depth": nn.Conv2d(8, 1, 1)}
    gated = gate(Backbone(), tasks=["det", "depth"], example_inputs=(X,), heads=heads).eval()
    set_gates(gated, {unit: torch.rand_like(g.alpha) < 0.5 for unit, g in gated.gates.items()})
    return gated


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", STRUCTURES)
def test_a_head_may_return_several_outputs(name: str, whole: bool) -> None:
    """Used to be refused: a head had to return one tensor."""
    gated = make(name, whole)
    names = [*STRUCTURES[name][1], "depth"]
    static = prune(gated)
    report = verify(gated, static)
    assert report.passed
    assert list(report.per_task) == names
    assert [spec.name for spec in static.manifest.outputs] == names
    assert static.tasks == gated.tasks == ("det", "depth")
    assert int(expected_macs(gated)) == static.manifest.macs.static
    assert type(gated(X)["det"]) is type(STRUCTURES[name][0](X, X))
    assert list(static(X)) == ["det", "depth"]


def test_the_static_network_returns_tuples_and_dicts() -> None:
    for name, keys in [("list", [0, 1]), ("dataclass", ["box", "score"])]:
        gated = make(name)
        result = prune(gated)(X)["det"]
        expected = gated(X)["det"]
        box, score = (expected.box, expected.score) if name == "dataclass" else expected
        torch.testing.assert_close([result[key] for key in keys], [box, score])


def test_swapped_outputs_are_noticed() -> None:
    static = prune(make("dict"))
    graph = static.network.graph
    output = next(iter(graph.find_nodes(op="output")))
    first, second, *rest = output.args[0]
    output.args = ((second, first, *rest),)
    static.network.recompile()
    assert not verify(make("dict"), static).passed


def test_files_name_each_output_and_a_name_once(tmp_path: Path) -> None:
    """A task named like an input used to be refused by `export_onnx`, long after the training."""
    static = prune(make("nested"))
    static.save(tmp_path / "static")
    loaded = load_static(tmp_path / "static")
    report = export_onnx(loaded, tmp_path / "model.onnx")
    assert report.inputs == ("depth_input",)
    assert report.outputs == ("det.levels.0", "det.levels.1.1", "depth")
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [value.name for value in graph.input] == ["depth_input"]
    assert [value.name for value in graph.output] == list(report.outputs)
    torch.testing.assert_close(loaded(X), static(X))


@pytest.mark.parametrize("names", [("det.0", "det.0"), ("det", "det.0"), ("det.99999", "other"), ("depth", "det")])
def test_a_manifest_with_other_names_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    static: StaticModel = prune(make("tuple"))
    static.save(tmp_path / "static")
    path = tmp_path / "static" / "manifest.json"
    manifest = json.loads(path.read_text())
    for spec, name in zip(manifest["outputs"], names, strict=False):
        spec["name"] = name
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match=r"names outputs|not named for the tasks"):
        load_static(tmp_path / "static")


class Siamese(Backbone):
    """Two inputs go through the layers as one batch, which is then cut in two."""

    def __init__(self, cut: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.cut = cut

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        y = self.second(self.first(torch.cat([before, after])).relu())
        one, other = self.cut(y, before)
        return (one - other).abs()


@pytest.mark.parametrize("cut", [lambda y, x: y.chunk(2, 0), lambda y, x: y.split(x.shape[0])])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_siamese_networks_are_pruned_and_exported_whatever_the_gates(
    tmp_path: Path, cut: Callable[[Tensor, Tensor], Any], share: float
) -> None:
    """Pruning used to depend on the gates, and ONNX's tools ended in an error of their own."""
    torch.manual_seed(0)
    heads = {task: nn.Conv2d(8, 2, 1) for task in "ab"}
    gated = gate(Siamese(cut), tasks=["a", "b"], example_inputs=(X, X + 1), heads=heads).eval()
    set_gates(gated, {unit: torch.rand_like(g.alpha) < share for unit, g in gated.gates.items()})
    static = prune(gated)
    assert verify(gated, static).passed
    assert max(export_onnx(static, tmp_path / "model.onnx").errors.values()) < 1e-4
