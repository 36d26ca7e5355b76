"""Digests of what pruning emits, for eight networks with fixed gates: a refactoring must not change them.

    python -m benchmarks.digests                      # print a table
    python -m benchmarks.digests --write FILE         # and keep it as JSON
    python -m benchmarks.digests --against FILE       # compare; exit status 1 where anything differs

Per network and target: SHA-256 of `graph.json` and of `weights.safetensors`, MACs, parameters, and the digest of the
deployed form. Digests hold for one version of torch only, which the file names.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

import gate2static as g2s

warnings.simplefilter("ignore")


class _Pooled(nn.Module):
    """A head: every feature averaged over its positions, side by side, one linear layer."""

    def __init__(self, features: Any, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(_pool(features).shape[1], outputs)

    def forward(self, features: Any) -> Tensor:
        return self.linear(_pool(features))


def _pool(features: Any) -> Tensor:
    """(N, C) of tensors (N, C, H, W) or (N, C)."""
    maps = list(features.values()) if isinstance(features, dict) else [features]
    return torch.cat([x.mean((2, 3)) if x.dim() == 4 else x for x in maps], 1)


class _TwoOutputs(nn.Module):
    """Features at two scales, a residual stream, a flattened classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.down = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32))
        self.flat = nn.Linear(32 * 16, 24)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        low = self.body(self.stem(x)) + self.stem(x)
        high = torch.relu(self.down(low))
        return {"low": low, "flat": self.flat(nn.functional.adaptive_avg_pool2d(high, 4).flatten(1))}


def _vit() -> nn.Module:
    vit = torchvision.models.VisionTransformer(32, 8, 2, 3, 48, 96)
    vit.heads = nn.Identity()
    return vit


def _swin() -> nn.Module:
    swin = torchvision.models.SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4])
    swin.head = nn.Identity()
    return swin


def _hrnet() -> nn.Module:
    import timm

    return timm.create_model("hrnet_w18_small", pretrained=False, num_classes=0)


def _resnet(name: str) -> nn.Module:
    network = getattr(torchvision.models, name)(weights=None)
    network.fc = nn.Identity()
    return network


def _mobilenet() -> nn.Module:
    network = torchvision.models.mobilenet_v3_small(weights=None)
    network.classifier = nn.Identity()
    return network


def _densenet() -> nn.Module:
    network = torchvision.models.DenseNet(8, (2, 2, 2, 2), 16)
    network.classifier = nn.Identity()
    return network


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, dict[str, Any]]] = {
    "resnet18": (lambda: _resnet("resnet18"), 64, {}),
    "mobilenet_v3_small": (_mobilenet, 64, {}),
    "densenet": (_densenet, 32, {}),
    "vit": (_vit, 32, {}),
    "swin": (_swin, 32, {}),
    "hrnet": (_hrnet, 64, {}),
    "two_outputs": (_TwoOutputs, 16, {}),
    "tied": (lambda: _resnet("resnet18"), 64, {"group_size": 16, "mixing": "hard", "tie_residual": True}),
}
"""Name -> the backbone, the size of its images, and the options of `gate`."""
TARGETS = ("any", "ort-cpu", "trt")


def digests(name: str) -> dict[str, dict[str, Any]]:
    """Target -> what pruning the network for it gives."""
    torch.manual_seed(0)
    build, size, options = NETWORKS[name]
    backbone, x = build().eval(), torch.randn(2, 3, size, size)
    with torch.no_grad():
        features = backbone(x)
    heads = {task: _Pooled(features, outputs) for task, outputs in (("a", 3), ("b", 2), ("c", 1))}
    gated = g2s.gate(backbone, tasks=list(heads), example_inputs=(x,), heads=heads, **options).eval()
    with torch.no_grad():
        for parameter in g2s.weight_parameters(gated):
            parameter.add_(0.05 * torch.randn_like(parameter))
        for parameter in g2s.gate_parameters(gated):
            parameter.copy_(torch.randn_like(parameter) - 0.6)
    return {target: _of(g2s.prune(gated, target=target)) for target in TARGETS}


def _of(static: g2s.StaticModel) -> dict[str, Any]:
    deployed = static.deployed() if hasattr(static, "deployed") else static.fold_norms()
    return {
        **_files(static, ""),
        **_files(deployed, "deployed_"),
        "macs": static.manifest.macs.static,
        "parameters": static.manifest.parameters.static,
    }


def _files(static: g2s.StaticModel, prefix: str) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        static.save(Path(folder) / "static")
        files = {"graph": "graph.json", "weights": "weights.safetensors"}
        read = {key: (Path(folder) / "static" / file).read_bytes() for key, file in files.items()}
    return {prefix + key: hashlib.sha256(content).hexdigest()[:16] for key, content in read.items()}


def main() -> None:
    """Prints, keeps or compares the digests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(NETWORKS)}; all when absent")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--against", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = {"torch": torch.__version__}
    for name in options.networks or NETWORKS:
        found[name] = digests(name)
        for target, values in found[name].items():
            print(f"{name:20} {target:8} " + " ".join(str(value) for value in values.values()), flush=True)
    if options.write:
        options.write.write_text(json.dumps(found, indent=1) + "\n")
    if options.against:
        sys.exit(_compare(json.loads(options.against.read_text()), found))


def _compare(before: dict[str, Any], found: dict[str, Any]) -> int:
    """Says what differs; 1 where anything does."""
    differences = [
        f"{name} {target} {key}: {before[name][target][key]} -> {value}"
        for name, targets in found.items()
        if name != "torch"
        for target, values in targets.items()
        for key, value in values.items()
        if before[name][target][key] != value
    ]
    print("\n".join(differences) or f"equal: {len(found) - 1} networks")
    return int(bool(differences))


if __name__ == "__main__":
    main()
