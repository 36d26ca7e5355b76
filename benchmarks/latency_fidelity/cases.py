"""Networks, gates and lowerings that are compared."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

import timm
import torch
import torchvision
from torch import nn

import gate2static as g2s
from gate2static.gates import GatedModel
from gate2static.prune.emission.layout import LAYOUT, PLAIN, TARGETS
from gate2static.train import load_gated

TASKS = ("a", "b", "c")
SIZE = 224
NETWORKS = ("resnet18", "resnet50", "mobilenet_v3_large", "convnext_tiny", "vit_small")
REPEATED = ("resnet18", "resnet50", "vit_small")
"""Measured with several seeds, where these are asked for."""
LAYOUTS = {
    "plain": PLAIN,
    "any": LAYOUT,
    "no share_work": replace(LAYOUT, share_work=False),
    "no blocks": replace(LAYOUT, block_channels=0),
    "convolve_moves": TARGETS["ort-cpu"].layouts[-1],
    "no convolve_moves": replace(TARGETS["ort-cpu"].layouts[-1], convolve_moves=False),
    "channels_first": replace(LAYOUT, channels_first=True),
    "no channels_first": LAYOUT,
}
"""The plainest, `prune`'s own, that without one pass at a time; passes of the deployed form, and the same as copies."""
BASELINES = {"shared": False, "separate": True}
"""Whether all gates are specific."""
OURS = {"onnxruntime": "ort-cpu", "openvino": "openvino", "tensorrt": "trt", "tensorrt-rtx": "trt"}
"""The target that "ours" is pruned for, by backend; "any" for others."""


@dataclass(frozen=True, kw_only=True)
class Gates:
    """How gates are drawn: each group of channels of each task is specific with probability `share`."""

    share: float
    group_size: int | Literal["layer"]
    mixing: Literal["softmax", "hard"]
    tied: bool = False
    seed: int = 0

    @property
    def structure(self) -> str:
        """What the recipe would say."""
        channels = "a layer" if self.group_size == "layer" else f"{self.group_size:2d}"
        return f"{channels} per gate, {self.mixing}{', tied' if self.tied else ''}"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One of `NETWORKS` with gates drawn at random, or a checkpoint with those that it was trained to."""

    network: str
    gates: Gates

    def __str__(self) -> str:
        """For progress bars and names of files."""
        return f"{self.network}, {self.gates.structure}, p = {self.gates.share:g}, seed {self.gates.seed}"

    def gated(self) -> GatedModel:
        """The gated network, in eval mode."""
        if self.network not in NETWORKS:
            return load_gated(self.network)[0]
        gated = gated_network(self.network, self.gates)
        draw(gated, self.gates)
        return gated


def trained(checkpoint: Path) -> Case:
    """A checkpoint's case: p is the share of its gates that is specific."""
    gated, recipe = load_gated(checkpoint)
    decisions = torch.cat([d.flatten() for d in g2s.gate_decisions(gated).values()])
    how = recipe.gating
    return Case(
        network=str(checkpoint),
        gates=Gates(
            share=round(float(decisions.double().mean()), 2),
            group_size=how.group_size,
            mixing=how.mixing,
            tied=how.tie_residual,
            seed=recipe.seed,
        ),
    )


STRUCTURES = (
    Gates(share=0, group_size="layer", mixing="hard"),
    Gates(share=0, group_size=16, mixing="softmax"),
    Gates(share=0, group_size=64, mixing="hard"),
    Gates(share=0, group_size=1, mixing="softmax"),
    Gates(share=0, group_size=64, mixing="softmax"),
    Gates(share=0, group_size=16, mixing="hard"),
    Gates(share=0, group_size=16, mixing="softmax", tied=True),
)


def drawn(networks: Iterable[str], structures: int, shares: Sequence[float], seeds: int) -> Iterator[Case]:
    """Every combination, the first seed and the first structures first; of most networks the first seed only."""
    for seed, network in product(range(seeds), networks):
        if seed == 0 or network in REPEATED:
            for structure, share in product(STRUCTURES[:structures], shares):
                yield Case(network=network, gates=replace(structure, share=share, seed=seed))


def gated_network(name: str, structure: Gates) -> GatedModel:
    """A backbone with random weights and three linear heads, in eval mode."""
    torch.manual_seed(0)
    if name.startswith("resnet"):
        backbone: nn.Module = getattr(torchvision.models, name)()
        width, backbone.fc = backbone.fc.in_features, nn.Identity()  # type: ignore[union-attr]
    elif name == "mobilenet_v3_large":
        backbone, width = torchvision.models.mobilenet_v3_large(), 960
        backbone.classifier = nn.Identity()
    else:
        timm_name = {"vit_small": "vit_small_patch16_224"}.get(name, name)
        backbone = timm.create_model(timm_name, num_classes=0)
        width = int(backbone.num_features)  # type: ignore[arg-type]
    gated = g2s.gate(
        backbone.eval(),
        tasks=TASKS,
        example_inputs=(torch.randn(2, 3, SIZE, SIZE),),
        heads={task: nn.Linear(int(width), 10) for task in TASKS},
        group_size=structure.group_size,
        mixing=structure.mixing,
        tie_residual=structure.tied,
    ).eval()
    # Training makes streams differ. As they start, OpenVINO would find equal layers and compute them once.
    with torch.no_grad():
        for branch in gated.branches.values():
            for parameter in branch.parameters():
                parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    return gated


@torch.no_grad()
def draw(gated: GatedModel, gates: Gates) -> None:
    """Set every gate and every mixing logit at random."""
    generator = torch.Generator().manual_seed(gates.seed)
    for alpha in {id(gate.alpha): gate.alpha for gate in gated.gates.values()}.values():
        specific = torch.rand(alpha.shape, generator=generator) < gates.share
        alpha.copy_(torch.where(specific, 1.0, -1.0))
    for gate in gated.gates.values():
        gate.beta.copy_(torch.randn(gate.beta.shape, generator=generator))
