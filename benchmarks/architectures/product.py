"""Every architecture on every family of backbones, narrow: from one step of training to an ONNX file.

Run:  python -m benchmarks.architectures.product     (some minutes; prints the table of docs/architectures.md)
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import onnxruntime
import timm
import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import gate2static as g2s
from gate2static.architectures import ARCHITECTURES, Architecture
from gate2static.errors import ArchitectureError
from gate2static.models.backbones.dilated_resnet import DilatedResNet
from gate2static.program.annotate import measure_macs

TASKS = ("a", "b")
SIZE = 64
"""The side of the images."""
_OF_SCALE = 1e-9
"""The largest error in float64, as a share of the largest output."""
_OF_SCALE_ONNX = 1e-4
"""The same of an ONNX file in float32."""


class HRNet18(nn.Module):
    """timm's small HRNet-18, which has one module of each kind per stage, up to its four resolutions."""

    def __init__(self) -> None:
        super().__init__()
        name = "hrnet_w18_small"
        self.features = timm.create_model(name, features_only=True, feature_location="", out_indices=(1, 2, 3, 4))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps images (N, C, H, W) to four maps, finest first."""
        maps: list[Tensor] = self.features(x)
        return maps


def resnet18() -> nn.Module:
    """Returns a ResNet-18 of an eighth of the width, up to its last map."""
    return ResNet(BasicBlock, (2, 2, 2, 2), channels=(8, 16, 32, 64), num_classes=0, global_pool="")


def mobilenet_v3() -> nn.Module:
    """Returns a MobileNetV3-small of half the width, up to its last map."""
    return timm.create_model("mobilenetv3_small_050", features_only=True, out_indices=(-1,))


def vit_small() -> nn.Module:
    """Returns a ViT-small of an eighth of the width and a third of the depth, which returns tokens."""
    narrow = {"embed_dim": 48, "num_heads": 3, "depth": 4, "img_size": SIZE}
    return timm.create_model("vit_small_patch16_224", num_classes=0, global_pool="", **narrow)


BACKBONES: dict[str, tuple[Callable[[], nn.Module], Sequence[str] | None]] = {
    "ResNet-18": (resnet18, None),
    "ViT-small": (vit_small, None),
    "MobileNetV3": (mobilenet_v3, None),
    "dilated ResNet-50": (lambda: DilatedResNet(50, width=0.125), None),
    "HRNet-18": (HRNet18, ("features.stage2", "features.stage3")),
}
"""Name -> the backbone, and the places where it is cut; None is where the architecture wants."""
_WHOLE = ("smtl", "smtl_c", "l_smtl", "l_smtl_c")
"""The architectures that do not cut a backbone."""
REFUSED: dict[tuple[str, str], str] = {
    **{(name, "ViT-small"): f"{name} needs feature maps between stages" for name in ("afa", "mtan", "nddr")},
    ("mtan", "HRNet-18"): "mtan needs one feature map behind every stage",
    ("adashare", "HRNet-18"): "adashare skips blocks that keep the shape of their values, and here is none",
}
"""Architecture and backbone -> what the refusal says."""


class Pooled(nn.Module):
    """A head: every map or sequence averaged, and one linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 3)

    def forward(self, features: Any) -> Tensor:
        """Maps feature maps (N, C, H, W) or tokens (N, L, C) to (N, 3)."""
        values = [f.mean((2, 3)) if f.dim() == 4 else f.mean(1) for f in pytree.tree_leaves(features)]
        scores: Tensor = self.linear(torch.cat(values, 1))
        return scores


def images(count: int = 2) -> Tensor:
    """Returns random images, the same at every call."""
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def built(name: str, backbone: str) -> Architecture:
    """Builds an architecture with random weights.

    Args:
        name: The architecture.
        backbone: A key of `BACKBONES`.

    Raises:
        ArchitectureError: The backbone does not allow it.
    """
    torch.manual_seed(0)
    factory, places = BACKBONES[backbone]
    network = factory()
    with torch.no_grad():
        leaves = pytree.tree_leaves(network.eval()(images()))
    channels = sum(leaf.shape[1] if leaf.dim() == 4 else leaf.shape[2] for leaf in leaves)
    heads = {task: Pooled(channels) for task in TASKS}
    wanted = None if name in _WHOLE else places
    return g2s.architecture(name, network, heads=heads, example_inputs=(images(),), places=wanted)


def train_one_step(network: Architecture) -> None:
    """Takes one step, and then lets tasks that choose choose differently."""
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01)
    loss = torch.stack([output.square().mean() for output in network.train()(images(4)).values()]).sum()
    added = network.penalty()
    (loss if added is None else loss + added).backward()
    before = [parameter.clone() for parameter in network.parameters()]
    optimiser.step()
    if not all(bool(p.isfinite().all()) for p in network.parameters()):
        raise AssertionError("a parameter is not finite behind a step")
    if all(torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)):
        raise AssertionError("a step changed nothing")
    if isinstance(logits := getattr(network, "logits", None), nn.Parameter):
        with torch.no_grad():
            logits.copy_(torch.randn(logits.shape, generator=torch.Generator().manual_seed(3)))
    network.eval()


def check(network: Architecture, folder: Path) -> g2s.StaticModel:
    """Takes a trained architecture to its static network and its ONNX file, and checks both.

    Args:
        network: The architecture, in evaluation mode.
        folder: Where the ONNX file goes.

    Raises:
        AssertionError: Outputs or MACs differ.
    """
    gated = g2s.as_gated(network, (images(),))
    static = g2s.prune(gated)
    predicted = int(g2s.expected_macs(gated))
    _, counted = measure_macs(lambda: static(images(1)))
    if not predicted == counted == static.manifest.macs["static"]:
        raise AssertionError(f"predicted {predicted} MACs, counted {counted}, noted {static.manifest.macs['static']}")
    with torch.no_grad():
        expected = network(images())
        session = onnxruntime.InferenceSession(g2s.export_onnx(static, folder / "model.onnx").path)
        found = session.run(list(TASKS), {session.get_inputs()[0].name: images().numpy()})
        _compare("the ONNX file", expected, dict(zip(TASKS, map(torch.from_numpy, found), strict=True)), _OF_SCALE_ONNX)
        precise = network.double()(images().double())
        _compare("the static network", precise, static.double()(images().double()), _OF_SCALE)
    return static


def _compare(what: str, expected: dict[str, Tensor], outputs: dict[str, Tensor], of_scale: float) -> None:
    for task, output in expected.items():
        error = float((output - outputs[task]).abs().max() / output.abs().max())
        if not error <= of_scale:
            raise AssertionError(f"{what} differs by {error:.1e} of the largest output of {task}")


def outcome(name: str, backbone: str) -> str:
    """Returns what came of an architecture on a backbone: `equal`, `refused`, or a failure."""
    try:
        network = built(name, backbone)
        train_one_step(network)
        with tempfile.TemporaryDirectory() as folder:
            check(network, Path(folder))
    except ArchitectureError as error:
        expected = REFUSED.get((name, backbone))
        return "refused" if expected is not None and expected in str(error) else f"FAILED: {error}"
    except Exception as error:  # noqa: BLE001 - the table shows every failure
        return f"FAILED: {type(error).__name__}: {error}"
    return "equal" if (name, backbone) not in REFUSED else "FAILED: this is to be refused"


def main(names: Sequence[str]) -> None:
    """Prints a row per architecture.

    Args:
        names: The architectures; none are all.
    """
    cells: dict[tuple[str, str], str] = {}
    for backbone, name in product(BACKBONES, names or ARCHITECTURES):
        start = time.process_time()
        cells[name, backbone] = outcome(name, backbone)
        seconds = time.process_time() - start
        print(f"{name} on {backbone}: {cells[name, backbone]} ({seconds:.0f} s)", file=sys.stderr, flush=True)
    print(f"| | {' | '.join(BACKBONES)} |\n|{'---|' * (1 + len(BACKBONES))}")
    for name in names or ARCHITECTURES:
        print(f"| `{name}` | {' | '.join(cells[name, backbone] for backbone in BACKBONES)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
