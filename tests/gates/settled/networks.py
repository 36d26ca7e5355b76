"""Gated networks some of whose gates are settled, and a loss to train them with."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gate2static.gates import (
    GatedModel,
    gate,
    sparsity_hinge,
)
from gate2static.gates.settled.lift import lift_settled

TASKS = ["a", "b", "c"]


class Block(nn.Module):
    """Residual, with a depth-wise convolution in the middle."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.depthwise, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, groups=outputs), nn.BatchNorm2d(outputs)
        self.last, self.norm3 = nn.Conv2d(outputs, outputs, 1), nn.BatchNorm2d(outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.first(x)))
        y = nn.functional.silu(self.norm2(self.depthwise(y)))
        return torch.relu(self.norm3(self.last(y)) + self.skip(x))


class Backbone(nn.Module):
    """Convolutions with and without norms, element-wise operators, a transposed convolution, tokens, opaque means."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.pool = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.MaxPool2d(2)
        self.blocks = nn.Sequential(Block(8, 8), Block(8, 12))
        self.up = nn.ConvTranspose2d(12, 6, 2, 2)
        self.token_norm, self.mlp, self.back = nn.LayerNorm(6), nn.Linear(6, 10), nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.pool(torch.relu(self.norm(self.stem(x)))))
        tokens = self.up(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.back(nn.functional.gelu(self.mlp(self.token_norm(tokens))))
        return tokens * 0.5


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 2)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features.mean(1))


Settled = dict[str, np.ndarray]


def make(backbone: nn.Module | None = None, tasks: list[str] = TASKS, **options: Any) -> GatedModel:
    heads = {t: Head() for t in tasks}
    backbone = (backbone or Backbone()).double()
    x = torch.randn(2, 3, 14, 14, dtype=torch.float64)
    model = gate(backbone, tasks=tasks, example_inputs=(x,), heads=heads, **options).double().train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def settle(gated: GatedModel, share: float, own: float, seed: int = 0) -> tuple[dict[str, Tensor], Settled]:
    """Settles gates at random; the settled groups, and the settled channels."""
    generator = torch.Generator().manual_seed(seed)
    groups: dict[int, Tensor] = {}
    for unit in gated.gates.values():
        if id(unit.alpha) not in groups:
            settled = torch.rand(unit.alpha.shape, generator=generator) < share
            specific = torch.rand(unit.alpha.shape, generator=generator) < own
            with torch.no_grad():
                unit.alpha.copy_(torch.where(settled, torch.where(specific, 0.7, -0.7), unit.alpha))
            groups[id(unit.alpha)] = settled
    by_unit = {name: groups[id(unit.alpha)] for name, unit in gated.gates.items()}
    return by_unit, {name: gated.gates[name].per_channel(s).numpy() for name, s in by_unit.items()}


def narrow(gated: GatedModel, settled: Settled) -> None:
    encoder = lift_settled(gated.program, gated.branches, gated.gates, settled)
    assert encoder is not None
    gated.train_with(encoder)


def backward(gated: GatedModel, x: Tensor) -> dict[str, Tensor]:
    outputs = gated(x)
    weights = torch.linspace(-1, 2, steps=2 * len(x), dtype=x.dtype).view(-1, 2)
    loss = sum((i + 1) * (output * weights).sin().sum() for i, output in enumerate(outputs.values()))
    targets = dict.fromkeys(gated.tasks, 0.0)
    (loss + sparsity_hinge(gated, targets=targets)).backward()
    return outputs
