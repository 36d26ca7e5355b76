"""Trains networks of other libraries gated and as they are: `python -m benchmarks.robustness.train_mode [NAME …]`.

Segmentation networks (segmentation_models_pytorch, without their head) and backbones of Hugging Face, both with random
weights. For each, all gates shared and all gates specific, one step in training mode must give the outputs, every
gradient and every buffer of the network itself. Random layers draw in another order in T+1 streams, so their
probabilities are zero in that comparison; that they are kept is seen in another one, by how much outputs vary. Each
network is also pruned with mixed gates, verified and exported. Nothing is timed.
"""

import contextlib
import copy
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gate2static as g2s
from gate2static.errors import Gate2StaticError

RESULTS = Path(__file__).parent.parent / "results" / "robustness" / "train_mode.json"
TASKS = ("a", "b")
_TOLERANCE = 1e-8
"""Largest difference that counts as equal, in float64 and relative to the largest number of the tensor."""

_ROUGHLY = 0.2
"""How different the spreads of two networks that draw alike may be."""

SEGMENTATION = {
    "Unet resnet18": ("Unet", "resnet18"),
    "Unet++ resnet18": ("UnetPlusPlus", "resnet18"),
    "FPN mobilenet_v2": ("FPN", "mobilenet_v2"),
    "DeepLabV3+ resnet18": ("DeepLabV3Plus", "resnet18"),
    "DeepLabV3 mobilenet_v2": ("DeepLabV3", "mobilenet_v2"),
    "PSPNet resnet18": ("PSPNet", "resnet18"),
    "Linknet efficientnet-b0": ("Linknet", "efficientnet-b0"),
    "MAnet resnet18": ("MAnet", "resnet18"),
    "PAN resnet18": ("PAN", "resnet18"),
    "UPerNet mobilenet_v2": ("UPerNet", "mobilenet_v2"),
    "Unet mit_b0": ("Unet", "mit_b0"),
    "Segformer mit_b0": ("Segformer", "mit_b0"),
}
"""Name -> decoder and encoder of segmentation_models_pytorch."""

_SIZES = {"PAN": 128}
"""Decoder -> height and width of images, where 64 are too few for all levels."""

_WIDE = ("Unet", "UnetPlusPlus", "MAnet")
"""Decoders that would be several times as large as their encoders."""

_SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}

HUGGING_FACE: dict[str, tuple[str, dict[str, Any]]] = {
    "SegFormer": (
        "Segformer",
        {
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [16, 32, 40, 64],
            "num_attention_heads": [1, 2, 5, 8],
            "decoder_hidden_size": 32,
        },
    ),
    "Swin": ("Swin", {"image_size": 64, "embed_dim": 24, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4}),
    "ConvNeXt": ("ConvNext", {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1], "drop_path_rate": 0.2}),
    "ResNet": ("ResNet", {"embedding_size": 16, "hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]}),
    "MobileNetV2": ("MobileNetV2", {"depth_multiplier": 0.35, "image_size": 64}),
    "DINOv2": ("Dinov2", {**_SMALL, "image_size": 56, "patch_size": 14, "drop_path_rate": 0.2}),
    "ViT": (
        "ViT",
        {**_SMALL, "image_size": 64, "hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2},
    ),
    "BEiT": ("Beit", {**_SMALL, "image_size": 64, "use_relative_position_bias": True}),
    "Hiera": ("Hiera", {"image_size": [64, 64], "embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]}),
}
"""Name -> prefix of the classes of transformers, and options of the configuration."""


class Decoded(nn.Module):
    """A segmentation network without its head."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.encoder: nn.Module = network.encoder
        self.decoder: nn.Module = network.decoder

    def forward(self, image: Tensor) -> Any:
        """The image -> the decoder's features."""
        return self.decoder(self.encoder(image))


class LastState(nn.Module):
    """A network of transformers that returns its last hidden state alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Any:
        """The image -> the last hidden state."""
        return self.network(image, return_dict=True).last_hidden_state


class Mean(nn.Module):
    """The mean of the sine over everything but the batch; a head without parameters.

    The plain mean would be constant behind a norm.
    """

    def forward(self, features: Tensor) -> Tensor:
        """The features -> (batch, 1)."""
        return (features * 2).sin().flatten(1).mean(1, keepdim=True)


def networks() -> dict[str, tuple[Callable[[], nn.Module], int]]:
    """Returns name -> what makes the network, and the height and width of its images."""
    import segmentation_models_pytorch
    import transformers

    found: dict[str, tuple[Callable[[], nn.Module], int]] = {}

    def segmentation(decoder: str, encoder: str) -> nn.Module:
        kind = getattr(segmentation_models_pytorch, decoder)
        narrow = {"decoder_channels": (64, 48, 32, 24, 16)} if decoder in _WIDE else {}
        return Decoded(kind(encoder, encoder_weights=None, in_channels=3, classes=2, **narrow))

    def hugging_face(prefix: str, options: dict[str, Any]) -> nn.Module:
        config = getattr(transformers, f"{prefix}Config")(**options)
        return LastState(getattr(transformers, f"{prefix}Model")(config))

    for name, arguments in SEGMENTATION.items():
        found[f"smp {name}"] = (lambda a=arguments: segmentation(*a), _SIZES.get(arguments[0], 64))
    for name, (prefix, options) in HUGGING_FACE.items():
        size = options.get("image_size", 64)
        size = size[0] if isinstance(size, list) else size
        found[f"hf {name}"] = (lambda p=prefix, o=options: hugging_face(p, o), size)
    return found


def compare(name: str, make: Callable[[], nn.Module], size: int) -> dict[str, Any]:
    """Returns what was found about one network; a refusal has the key `refused`."""
    torch.manual_seed(0)
    backbone = make().train()
    image = torch.randn(2, 3, size, size)
    try:
        gated = _gated(backbone, image)
        # What a function reads is fixed when it is traced, so that its probability must be zero before.
        quiet = _without_draws(copy.deepcopy(backbone))
        gated_quiet = _gated(quiet, image)
    except Gate2StaticError as error:
        return {"network": name, "refused": str(error)}
    result: dict[str, Any] = {"network": name, "random": _spread_of(backbone, gated, image)}
    for side, specific in (("shared", False), ("specific", True)):
        result[side] = _difference(quiet, gated_quiet, image, specific)
    result |= _deployed(gated)
    return result


def _gated(backbone: nn.Module, image: Tensor) -> g2s.GatedModel:
    heads = {task: Mean() for task in TASKS}
    return g2s.gate(backbone, tasks=TASKS, example_inputs=(image,), heads=heads, group_size=8)


def _difference(backbone: nn.Module, gated: g2s.GatedModel, image: Tensor, specific: bool) -> dict[str, float]:
    """Returns the largest differences of one step of training in float64, with random layers that draw nothing.

    Args:
        backbone: The network.
        gated: The gated network.
        image: The images.
        specific: Whether all gates are specific, or all are shared.
    """
    plain = copy.deepcopy(backbone).double().train()
    lifted = copy.deepcopy(gated).double().train()
    g2s.set_gates(lifted, specific)
    expected = Mean()(plain(image.double()))
    # Samples weigh differently: the mean over a normalised batch hardly depends on anything.
    weight = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (expected * weight).sum().backward()
    outputs = lifted(image.double())
    # All tasks share one network: the mean of their losses has the gradients of one network.
    streams = len(TASKS) if not specific else 1
    sum((output * weight).sum() / streams for output in outputs.values()).backward()
    branches = lifted.branches
    found = {"outputs": max(_relative(output, expected) for output in outputs.values())}
    scale = max(float(p.grad.abs().max()) for p in plain.parameters() if p.grad is not None)
    differences = [0.0]
    for stream in TASKS if specific else ("shared",):
        ours = dict(branches[stream].named_parameters(remove_duplicate=False))
        for name, parameter in plain.named_parameters():
            if parameter.grad is None or not bool(parameter.grad.any()):
                continue
            # A parameter of a function has the name of the layer that the function became.
            namesakes = [ours[name]] if name in ours else ours.values()
            gradients = [p.grad for p in namesakes if p.grad is not None and p.shape == parameter.shape]
            nearest = min((float((g - parameter.grad).abs().max()) for g in gradients), default=scale)
            differences.append(nearest / scale)
    found["gradients"] = max(differences)
    buffers = [0.0]
    for stream in branches:
        ours = dict(branches[stream].named_buffers())
        buffers += [_relative(ours[n], b) for n, b in plain.named_buffers() if n in ours]
    found["buffers"] = max(buffers)
    return found


def _relative(actual: Tensor, expected: Tensor) -> float:
    """Returns the largest difference, relative to the largest number of the expected tensor."""
    if actual.shape != expected.shape:
        return float("inf")
    difference = (actual.double() - expected.double()).abs().max()
    return float(difference / expected.double().abs().max().clamp_min(1e-300)) if float(difference) else 0.0


_PROBABILITIES = (
    "p", "drop_prob", "drop_path_prob", "attention_dropout", "dropout", "drop_path", "_drop_connect_rate"
)  # fmt: skip
"""The attributes under which modules keep the probability that they drop something with."""


def _without_draws(network: nn.Module) -> nn.Module:
    """Lets random layers draw nothing, and returns the network."""
    for module in network.modules():
        # EfficientNets of segmentation_models_pytorch read theirs from a named tuple.
        parameters = vars(module).get("_global_params")
        if parameters is not None:
            module._global_params = parameters._replace(drop_connect_rate=0.0)
        for key in _PROBABILITIES:
            if isinstance(vars(module).get(key), float):
                with contextlib.suppress(Gate2StaticError):
                    setattr(module, key, 0.0)
    return network


def _spread_of(backbone: nn.Module, gated: g2s.GatedModel, image: Tensor) -> tuple[float, float]:
    """Returns how much the outputs vary from run to run in training mode: of the network, and of the gated one."""
    lifted = copy.deepcopy(gated).train()
    g2s.set_gates(lifted, False)
    plain = copy.deepcopy(backbone).train()
    head = Mean()
    with torch.no_grad():
        ours = torch.stack([lifted(image)["a"] for _ in range(16)]).std(0).mean()
        theirs = torch.stack([head(plain(image)) for _ in range(16)]).std(0).mean()
    return float(theirs), float(ours)


def _deployed(gated: g2s.GatedModel) -> dict[str, Any]:
    """Prunes, verifies and exports a gated network with mixed gates."""
    torch.manual_seed(1)
    for number, branch in enumerate(gated.branches.values()):
        torch.manual_seed(number)
        for parameter in branch.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.02)
    g2s.set_gates(gated, {unit: torch.rand_like(gate.alpha) < 0.3 for unit, gate in gated.gates.items()})
    gated.eval()
    result: dict[str, Any] = {}
    try:
        static = g2s.prune(gated)
        result["verified"] = g2s.verify(gated, static).passed
        with tempfile.TemporaryDirectory() as folder:
            result["onnx"] = max(g2s.export_onnx(static, Path(folder) / "network.onnx").errors.values())
    except Gate2StaticError as error:
        result["refused_late"] = str(error)
    return result


def passes(result: dict[str, Any]) -> bool:
    """Returns whether a network trains as it is, keeps its random layers, and is deployed."""
    if "refused" in result or "refused_late" in result:
        return False
    theirs, ours = result["random"]
    are_equal = all(value <= _TOLERANCE for side in ("shared", "specific") for value in result[side].values())
    # Whether random layers are there at all: `gate` has compared their numbers, and spreads of 16 runs are rough.
    vary_alike = ours >= _ROUGHLY * theirs and theirs >= _ROUGHLY * ours
    return are_equal and vary_alike and bool(result["verified"])


def table(results: list[dict[str, Any]]) -> str:
    """Returns the results as a table of Markdown."""
    head = "network | outputs | gradients | buffers | varies: itself | gated | verified | ONNX error"
    lines = [f"| {head} |", "|---|---|---|---|---|---|---|---|"]
    for result in results:
        if "refused" in result:
            lines.append(f"| {result['network']} | refused: {result['refused'][:160]} | | | | | | |")
            continue
        worst = [max(result[side][key] for side in ("shared", "specific")) for key in result["shared"]]
        numbers = [f"{value:.0e}" for value in worst] + [f"{value:.3g}" for value in result["random"]]
        onnx = f"{result['onnx']:.0e}" if "onnx" in result else result.get("refused_late", "")[:160]
        lines.append(f"| {' | '.join([result['network'], *numbers, str(result.get('verified', '-')), onnx])} |")
    return "\n".join(lines)


def main(names: list[str]) -> None:
    """Compares the named networks, or all, and writes the results beside those of other networks."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    written = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    earlier = {result["network"]: result for result in written}
    results = []
    for name, (make, size) in networks().items():
        if names and not any(part in name for part in names):
            continue
        try:
            results.append(compare(name, make, size))
        except Exception as error:  # noqa: BLE001  # a benchmark says what happened and goes on
            reason = " ".join(str(error).split())[:300]
            results.append({"network": name, "refused": f"{type(error).__name__}: {reason}"})
        print(json.dumps(results[-1]), flush=True)
        earlier[name] = results[-1]
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps([earlier[n] for n in networks() if n in earlier], indent=1) + "\n")
    print(table(results))
    print(f"{sum(map(passes, results))} of {len(results)} pass")


if __name__ == "__main__":
    main(sys.argv[1:])
