"""A small pruned network with two tasks, a vector ("a") and a map ("b"), and its export."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gate2static.export import export_onnx
from gate2static.gates import gate
from gate2static.prune import prune
from gate2static.static import StaticModel


class Vector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 5)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features.mean((2, 3)))


class Backbone(nn.Sequential):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image)


@pytest.fixture(scope="session")
def pruned() -> StaticModel:
    """Convolutions with norms that are not the identity, and gates of all kinds."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norms = [nn.BatchNorm2d(8), nn.BatchNorm2d(8)]
        for norm in norms:
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
        convolutions = [nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)]
        backbone = Backbone(convolutions[0], norms[0], nn.ReLU(), convolutions[1], norms[1], nn.ReLU())
        heads = {"a": Vector(), "b": nn.Conv2d(8, 1, 1)}
        gated = gate(backbone, tasks=["a", "b"], example_inputs=(torch.randn(2, 3, 16, 16),), heads=heads)
        for name, parameter in gated.named_parameters():
            if name.endswith(("alpha", "beta")):
                nn.init.normal_(parameter)
        return prune(gated.eval())


@pytest.fixture(scope="session")
def described(pruned: StaticModel) -> StaticModel:
    static = deepcopy(pruned)
    static.describe(
        inputs={"image": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.5]}},
        outputs={
            "a": {"kind": "classification", "activation": "softmax", "classes": ["cat", "dog", "cow", "owl", "fly"]},
            "b": {"kind": "depth", "unit": "m"},
        },
    )
    return static


@pytest.fixture
def static(pruned: StaticModel) -> StaticModel:
    """A copy that a test may change."""
    return deepcopy(pruned)


@pytest.fixture(scope="session")
def onnx_bytes(pruned: StaticModel, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """`pruned` as fp32 ONNX, exported once."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(pruned, path)
    return path.read_bytes()


@pytest.fixture
def onnx_file(onnx_bytes: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_bytes)
    return path


@pytest.fixture
def folder_contents(tmp_path: Path) -> Callable[[], list[str]]:
    """The names in the test's folder, temporary files included."""
    return lambda: sorted(entry.name for entry in tmp_path.iterdir())
