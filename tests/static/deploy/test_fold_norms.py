"""Folding for deployment: fewer operators, the same function up to one rounding."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from gate2static.gates import gate, set_gates
from gate2static.prune import prune
from gate2static.static import StaticModel, load_static
from gate2static.static.deploy import fold_norms as fold
from tests import zoo

pytestmark = pytest.mark.slow


def _targets(model: StaticModel) -> list[str]:
    return [str(node.target) for node in model.network.graph.nodes if node.op == "call_function"]


def _norms_after_layers(model: StaticModel) -> list[fx.Node]:
    return [
        node
        for node in model.network.graph.nodes
        if "batch_norm" in str(node.target) and "conv" in str(node.args[0].target) and len(node.args[0].users) == 1
    ]


@torch.no_grad()
def _error(first: StaticModel, second: StaticModel, dtype: torch.dtype) -> float:
    inputs = [x.to(dtype) for x in first.example_inputs(2)]
    a, b = (copy.deepcopy(model).to(dtype)(*inputs).values() for model in (first, second))
    return zoo.relative_error(a, b)


@pytest.mark.parametrize("name", ["two_scales", "many_rules", "densenet"])
def test_no_norm_is_left_behind_a_convolution_and_the_function_is_the_same(name: str) -> None:
    static = prune(zoo.make_gated(name, tasks=2)[0])
    before = _targets(static)
    assert _norms_after_layers(static)
    folded = static.deployed()
    assert not _norms_after_layers(folded)
    assert 0 < _error(static, folded, torch.float32) < 1e-4
    # Weights were rounded once to float32, so float64 shows that rounding and nothing more.
    assert _error(static, folded, torch.float64) < 1e-5
    assert _targets(static) == before


def test_in_float64_folding_is_exact() -> None:
    gated, _ = zoo.make_gated("two_scales", tasks=3)
    static = prune(gated, dtype=torch.float64)
    assert _error(static, static.deployed(), torch.float64) < 1e-13


def test_mixing_weights_are_evaluated() -> None:
    static = prune(zoo.make_gated("two_scales", tasks=3)[0])
    assert any("softmax" in target for target in _targets(static))
    assert not any("softmax" in target for target in _targets(static.deployed()))


def test_a_wrong_epsilon_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    static = prune(zoo.make_gated("two_scales")[0])
    right = fold.fuse_conv_bn_weights

    def wrong(weight: Tensor, bias: Any, mean: Tensor, variance: Tensor, eps: float, *rest: Any, **options: Any) -> Any:
        return right(weight, bias, mean, variance, eps + 1e-2, *rest, **options)

    monkeypatch.setattr(fold, "fuse_conv_bn_weights", wrong)
    assert _error(static, static.deployed(), torch.float32) > 1e-3


class Upsampling(nn.Module):
    """Transposed convolutions with and without groups, each with a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.ConvTranspose2d(3, 6, 2, 2), nn.BatchNorm2d(6)
        self.second, self.plain = nn.ConvTranspose2d(6, 6, 2, 2, groups=2, bias=False), nn.BatchNorm2d(6, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(self.second(torch.relu(self.norm(self.first(x)))))


def test_transposed_convolutions_fold_and_grouped_ones_stay() -> None:
    x = torch.randn(2, 3, 5, 5)
    gated = gate(Upsampling(), tasks=["a", "b"], example_inputs=(x,), heads={t: nn.Identity() for t in ("a", "b")})
    gated = zoo.randomise(gated)
    set_gates(gated, True)
    static = prune(gated)
    folded = static.deployed()
    assert _error(static, folded, torch.float32) < 1e-5
    assert 0 < len(_norms_after_layers(folded)) < len(_norms_after_layers(static))


def test_a_folded_model_saves_loads_and_folds_again(pruned: StaticModel, tmp_path: Path) -> None:
    folded = pruned.deployed()
    folded.save(tmp_path / "folded")
    loaded = load_static(tmp_path / "folded")
    inputs = pruned.example_inputs(2)
    assert all(torch.equal(a, b) for a, b in zip(loaded(*inputs).values(), folded(*inputs).values(), strict=True))
    assert loaded.manifest.digest != pruned.manifest.digest
    assert _targets(loaded.deployed()) == _targets(folded)
    assert {name.split("_")[0] for name, _ in folded.network.named_parameters()} == {"parameter"}


def test_folding_leaves_the_model_as_it_was(pruned: StaticModel) -> None:
    before = {name: value.clone() for name, value in pruned.state_dict().items()}
    pruned.deployed()
    after = pruned.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
