"""The networks whose units are profiled: the user's own, or three of the usual kinds."""

from pathlib import Path

import torch
from torch import Tensor, nn

from gate2static.bench.profiling import Network


def networks_to_profile(path: Path | None) -> list[Network]:
    """A static folder's or a checkpoint's static network as it is deployed; None: common backbones at 224 × 224.

    Raises:
        ArtefactError: a folder that is not a static network's.
        CheckpointError: a file that is not a gated checkpoint.
    """
    if path is None:
        return _common()
    from gate2static.prune import load_static, prune
    from gate2static.train import load_gated

    static = load_static(path) if path.is_dir() else prune(load_gated(path)[0])
    return [(static.fold_norms(), static.example_inputs(1))]


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
