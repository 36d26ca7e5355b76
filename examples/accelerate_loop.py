"""Accelerate: two optimisers, the hinge of the paper, bf16 autocast, accumulation, a saved state and a resume.

Run:  python examples/accelerate_loop.py [FOLDER]
With `accelerate launch` the same loop runs in several processes.
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import gate2static as g2s

TARGETS = {"seg": 0.3, "depth": 0.0}


def network() -> g2s.GatedModel:
    """Returns a small backbone with two dense heads, gated."""
    backbone = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1))
    heads = {"seg": nn.Conv2d(16, 4, 1), "depth": nn.Conv2d(16, 1, 1)}
    return g2s.gate(backbone, tasks=list(heads), example_inputs=(torch.randn(2, 3, 16, 16),), heads=heads)


def batches() -> DataLoader:
    """Returns random images and targets."""
    x = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, (x[:, 0, ::2, ::2] > 0).long(), x[:, 1:2, ::2, ::2]), batch_size=2)


def train(folder: Path, *, epochs: int = 2, resume: bool = False) -> g2s.GatedModel:
    """Trains, saves the whole state after every epoch, and returns the gated network."""
    accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
    gated = network()
    # The gates' rate does not depend on the number of gates: the hinge is a mean over them, so Adam and not SGD.
    weights = torch.optim.AdamW(g2s.weight_parameters(gated), lr=1e-3)
    gates = torch.optim.Adam(g2s.gate_parameters(gated), lr=1e-2)
    model, weights, gates, loader = accelerator.prepare(gated, weights, gates, batches())
    if resume:
        accelerator.load_state(str(folder))
    for _ in range(epochs):
        for x, classes, depth in loader:
            with accelerator.accumulate(model):
                outputs = model(x)
                loss = F.cross_entropy(outputs["seg"], classes) + F.l1_loss(outputs["depth"], depth)
                accelerator.backward(loss + 0.05 * g2s.sparsity_hinge(model, targets=TARGETS))
                for optimiser in (weights, gates):
                    optimiser.step()
                    optimiser.zero_grad()
        accelerator.save_state(str(folder))
    return accelerator.unwrap_model(model)


if __name__ == "__main__":
    trained = train(Path(sys.argv[1] if len(sys.argv) > 1 else "accelerate-run"))
    print(g2s.summary(trained))
