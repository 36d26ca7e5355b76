"""The first example of README.md, as it stands: gates close, and the network is faster than separate networks."""

import re
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import regnet_y_400mf
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import FeaturePyramidNetwork

import gate2static as g2s

STEPS = 60
TASKS = ("classes", "depth", "normals", "edges")


def example() -> str:
    (code,) = re.findall(r"```python\n(import gate2static.*?)```", Path("README.md").read_text(), re.DOTALL)
    assert isinstance(code, str)
    return code


class Pyramid(nn.Module):
    """A RegNet with a feature pyramid, as one would make it with torchvision."""

    def __init__(self) -> None:
        super().__init__()
        layers = {f"trunk_output.block{i}": str(i) for i in (2, 3, 4)}
        self.body = create_feature_extractor(regnet_y_400mf(), layers)
        self.pyramid = FeaturePyramidNetwork([104, 208, 440], 64)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        return self.pyramid(self.body(x))  # type: ignore[no-any-return]


class Head(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out = nn.Conv2d(64, channels, 1)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return self.out(features["2"])  # type: ignore[no-any-return]


def loader() -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Images of two numbers, which the tasks want in different places."""
    generator = torch.Generator().manual_seed(0)
    while True:
        x = torch.randn(4, 3, 32, 32, generator=generator)
        pooled = nn.functional.avg_pool2d(x, 8)
        yield x, {task: pooled.roll(number, 1).mean(1, keepdim=True) for number, task in enumerate(TASKS)}


def my_loss(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    return torch.stack([(outputs[task] - targets[task]).square().mean() for task in outputs]).sum()


@pytest.mark.slow
def test_the_first_example_closes_gates_and_ends_faster_than_separate_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one gate per channel and the hinge, the example moved no gate, and its network was slower than four."""
    code = example()
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    searched: list[float] = []
    freeze = g2s.freeze_gates

    def noting(gated: g2s.GatedModel, budget: g2s.Budget) -> Any:
        decisions = torch.cat([d.flatten() for d in g2s.gate_decisions(gated).values()])
        searched.append(float(decisions.double().mean()))
        return freeze(gated, budget)

    monkeypatch.setattr(g2s, "freeze_gates", noting)
    names: dict[str, Any] = {
        "backbone": Pyramid(),
        "heads": {task: Head(1) for task in TASKS},
        "x": torch.randn(2, 3, 32, 32),
        "steps": STEPS,
        "loader": loader(),
        "my_loss": my_loss,
    }
    exec(code, names)
    (share,) = searched
    assert share < 0.9
    gated, static = names["gated"], names["static"]
    assert static.manifest.macs["static"] <= 0.6 * static.manifest.macs["separate"]
    g2s.set_gates(gated, True)
    separate = g2s.prune(gated, target="ort-cpu")
    g2s.export_onnx(separate, "separate.onnx")
    report = g2s.benchmark(["separate.onnx", "model.onnx"], rounds=5, duration_s=1.0, threads=1, progress=False)
    assert report.ratio(report.targets[1]) < 0.9
