"""The networks to profile: the user's own network, or three common backbones."""

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
from gate2static.runtimes.optional import require
from gate2static.static import StaticModel, load_static

_MIXED = (0.1, 0.4)
"""The shares of task-specific gates in networks with mixed gates."""
_TARGETS = {"onnxruntime": "ort-cpu", "openvino": "openvino", "tensorrt": "trt"}
"""By backend, the target that networks are pruned for besides `any`."""


def profile_for(
    path: Path | None, *, backend: str, threads: int | None, model: str | None = None
) -> LatencyTable:
    """Measures the kernels of a network and calibrates the table with the whole network.

    Args:
        path: A gated network's checkpoint, as for `profile_gated`, or a static network's folder. None measures common
            backbones at 224×224, without calibration.
        backend: A backend that runs torch or ONNX.
        threads: CPU threads; None uses torch's number.
        model: The name of the code that builds the network of an own training loop's checkpoint.

    Raises:
        ArtefactError: The folder is not a static network's.
        CheckpointError: The file is not a gated network's checkpoint.
        BenchError: The backend is unknown or runs engines only, or there is fewer than 1 thread.
        MissingDependencyError: The backend's library or device is missing.
    """
    check_profilable(backend, threads)
    if path is None:
        return profile(_common(), backend=backend, threads=threads)
    if path.is_dir():
        return _profile_whole([load_static(path)], backend=backend, threads=threads)
    from gate2static.restore import load_checkpoint  # a static network is timed without training code

    return profile_gated(load_checkpoint(path, model), backend=backend, threads=threads)


def profile_gated(gated: GatedModel, *, backend: str, threads: int | None) -> LatencyTable:
    """Measures the kernels of a gated network and calibrates the table with static networks that it may become.

    These are the static networks of its gates as they are, all shared, all task-specific and mixed, so that predictions
    hold for any budget between one backbone and separate networks. One network with mixed gates is also laid out for
    the backend.

    Args:
        gated: The gated network; it is not changed.
        backend: A backend that runs torch or ONNX.
        threads: CPU threads; None uses torch's number.

    Raises:
        BenchError: The backend is unknown or runs engines only, or there is fewer than 1 thread.
        MissingDependencyError: The backend's library or device is missing.
    """
    check_profilable(backend, threads)
    return _profile_whole(static_variants(gated, backend), backend=backend, threads=threads)


def static_variants(gated: GatedModel, backend: str) -> list[StaticModel]:
    """Returns static networks that a gated network may become, as `profile_gated` says."""
    statics = [prune(gated)]
    settings: list[bool | dict[str, Tensor]] = [False, True, *(mixed_gates(gated, share) for share in _MIXED)]
    with kept_gates(gated):
        for decisions in settings:
            set_gates(gated, decisions)
            statics.append(prune(gated))
        if backend in _TARGETS:
            set_gates(gated, mixed_gates(gated, _MIXED[0]))
            statics.append(prune(gated, target=_TARGETS[backend]))
    return statics


def _profile_whole(statics: Sequence[StaticModel], *, backend: str, threads: int | None) -> LatencyTable:
    networks = [(static.deployed(), static.example_inputs(1)) for static in statics]
    alone = profile(networks, backend=backend, threads=threads)
    targets = {str(number): static for number, static in enumerate(statics)}
    report = benchmark(targets, backends=[backend], rounds=9, duration_s=2, threads=threads)
    measured = [(*network, target.median_ms) for network, target in zip(networks, report.targets, strict=True)]
    return calibrated(alone, measured)


def _common() -> list[Network]:
    """Returns three common backbones, and the operators between the layers of pruned networks."""
    image = torch.empty(1, 3, 224, 224)
    names = require("torchvision.models")
    backbones = (names.resnet18(), names.mobilenet_v3_large(), require("timm").create_model("vit_tiny_patch16_224"))
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
        """Returns the backbone's output."""
        result: Tensor = self.backbone(x)
        return result


class _Views(nn.Module):
    """The operators between the layers of static networks: channels are picked, joined and mixed."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns a tensor like `x`, made with the operators that networks have between layers."""
        dim = 1 if x.dim() == 4 else 2
        half = x.shape[dim] // 2
        picked = x.index_select(dim, torch.arange(half))
        joined = torch.cat([picked * 0.5, x.narrow(dim, half, half)], dim)
        return (joined + x) * x
