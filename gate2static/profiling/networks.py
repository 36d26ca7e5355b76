"""What is profiled: the units of the user's own network, or those of three of the usual kinds."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from gate2static.bench.rounds import benchmark
from gate2static.budget.meter import kept_gates, mixed_gates
from gate2static.gates import GatedModel, set_gates
from gate2static.latency import LatencyTable, calibrated
from gate2static.profiling.measuring import Network, check_profilable, profile
from gate2static.prune import prune
from gate2static.static import StaticModel, load_static

_MIXED = (0.1, 0.4)  # shares of task-specific gates
_TARGETS = {"onnxruntime": "ort-cpu", "openvino": "openvino"}
"""What networks are pruned for besides `any`, by backend."""


def profile_for(path: Path | None, *, backend: str, threads: int | None) -> LatencyTable:
    """Measure the units of a network and calibrate them with the whole one; of common backbones without a network.

    Args:
        path: a gated checkpoint, see `profile_gated`, or a static network's folder; None profiles common backbones at
            224 × 224.
        backend: see `profile`.
        threads: CPU threads; None: as many as torch uses.

    Raises:
        ArtefactError: a folder that is not a static network's.
        CheckpointError: a file that is not a gated checkpoint.
        BenchError: see `profile`.
        MissingDependencyError: see `profile`.
    """
    check_profilable(backend, threads)
    if path is None:
        return profile(_common(), backend=backend, threads=threads)
    if path.is_dir():
        return _profile_whole([load_static(path)], backend=backend, threads=threads)
    from gate2static.train import load_gated  # a static network is timed without training code

    return profile_gated(load_gated(path)[0], backend=backend, threads=threads)


def profile_gated(gated: GatedModel, *, backend: str, threads: int | None) -> LatencyTable:
    """Measure the units of a gated network and calibrate them with whole networks of all kinds that it may become.

    These are the static networks of its gates as they are, all shared, all task-specific and mixed, so that budgets
    are met wherever between one backbone and separate ones they lie; one mixed also as laid out for the backend.
    See `profile` for the arguments and errors.
    """
    check_profilable(backend, threads)
    statics = [prune(gated)]
    settings: list[bool | dict[str, Tensor]] = [False, True, *(mixed_gates(gated, share) for share in _MIXED)]
    with kept_gates(gated):
        for decisions in settings:
            set_gates(gated, decisions)
            statics.append(prune(gated))
        if backend in _TARGETS:
            set_gates(gated, mixed_gates(gated, _MIXED[0]))
            statics.append(prune(gated, target=_TARGETS[backend]))
    return _profile_whole(statics, backend=backend, threads=threads)


def _profile_whole(statics: Sequence[StaticModel], *, backend: str, threads: int | None) -> LatencyTable:
    networks = [(static.deployed(), static.example_inputs(1)) for static in statics]
    alone = profile(networks, backend=backend, threads=threads)
    targets = {str(number): static for number, static in enumerate(statics)}
    report = benchmark(targets, backends=[backend], rounds=9, duration_s=2, threads=threads)
    return calibrated(
        alone, [(*network, target.median_ms) for network, target in zip(networks, report.targets, strict=True)]
    )


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
