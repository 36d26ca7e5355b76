"""A small two-task network in the shape of a StaticModel, and its export."""

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from gate2static.export import export_onnx


class TwoTasks(nn.Module):
    """One convolution, then a vector head ("a") and a dense head ("b")."""

    tasks = ("a", "b")

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.vector, self.dense = nn.Linear(8, 5), nn.Conv2d(8, 1, 1)
        self.manifest = SimpleNamespace(
            inputs=(SimpleNamespace(name="image", shape=(3, 16, 16), dtype="float32"),),
            digest="5" * 64,
            macs={"static": 12, "separate": 20},
        )
        self.eval()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.norm(self.conv(image)))
        return {"a": self.vector(x.mean((2, 3))), "b": self.dense(x)}

    def example_inputs(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        return (torch.randn(batch_size, 3, 16, 16, generator=torch.Generator().manual_seed(0)),)

    def fold_norms(self) -> "TwoTasks":
        folded = copy.deepcopy(self)
        folded.conv = nn.utils.fusion.fuse_conv_bn_eval(folded.conv, folded.norm)
        folded.norm = nn.Identity()
        return folded


@pytest.fixture
def static() -> TwoTasks:
    return TwoTasks()


@pytest.fixture(scope="session")
def onnx_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """`TwoTasks` as fp32 ONNX, exported once."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(TwoTasks(), path)
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
