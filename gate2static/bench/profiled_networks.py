"""What is profiled: the units of the user's own network, or those of three of the usual kinds."""

from pathlib import Path

import torch
from torch import Tensor, nn

from gate2static.bench.profiling import Network, profile
from gate2static.bench.rounds import benchmark
from gate2static.latency import LatencyTable, calibrated


def profile_for(path: Path | None, *, backend: str, threads: int | None) -> LatencyTable:
    """Measure the units of a network and calibrate them with the whole one; of common backbones without a network.

    Args:
        path: a static network's folder, or a gated checkpoint, whose static network is profiled; None profiles common
            backbones at 224 × 224.
        backend: see `profile`.
        threads: CPU threads; None: as many as torch uses.

    Raises:
        ArtefactError: a folder that is not a static network's.
        CheckpointError: a file that is not a gated checkpoint.
        BenchError: see `profile`.
        MissingDependencyError: see `profile`.
    """
    if path is None:
        return profile(_common(), backend=backend, threads=threads)
    from gate2static.prune import load_static, prune
    from gate2static.train import load_gated

    static = load_static(path) if path.is_dir() else prune(load_gated(path)[0])
    network = (static.fold_norms(), static.example_inputs(1))
    alone = profile([network], backend=backend, threads=threads)
    report = benchmark([static], backends=[backend], rounds=3, duration_s=1, threads=threads)
    return calibrated(alone, [(*network, report.targets[0].median_ms)])


def _common() -> list[Network]:
    import timm
    import torchvision

    image = torch.empty(1, 3, 224, 224)
    names = torchvision.models
    backbones = (names.resnet18(), names.mobilenet_v3_large(), timm.create_model("vit_tiny_patch16_224"))
    shapes = [(1, channels, side, side) for side in (7, 14, 28, 56, 112) for channels in (16, 64)]
    views: list[Network] = [(_Views(), (torch.empty(shape),)) for shape in (*shapes, (1, 197, 192))]
    return [*((_NormsFolded(backbone.eval()), (image,)) for backbone in backbones), *views]


class _NormsFolded(nn.Module):
    """A backbone without batch norms, which deployment folds away."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        for module in list(backbone.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """The backbone's output."""
        result: Tensor = self.backbone(x)
        return result


class _Views(nn.Module):
    """What stands between the layers of static networks: channels picked, joined and mixed."""

    def forward(self, x: Tensor) -> Tensor:
        """Like `x`, with half its channels changed."""
        dim = 1 if x.dim() == 4 else 2
        half = x.shape[dim] // 2
        picked = x.index_select(dim, torch.arange(half))
        joined = torch.cat([picked * 0.5, x.narrow(dim, half, half)], dim)
        return (joined + x) * x
