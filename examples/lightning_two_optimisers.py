"""Lightning: two optimisers, bf16 autocast, accumulation, an average of the weights, checkpoints, gates in TensorBoard.

Run:  python examples/lightning_two_optimisers.py [FOLDER]
`GateOptimiser` holds the sparsity, so the loss has no term for it; `GateCallback` freezes the gates on a budget.
"""

import sys
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import gate2static as g2s
from gate2static.lightning import GateCallback

STEPS = 8  # optimiser steps until the gates are frozen
ACCUMULATED = 2


def network() -> g2s.GatedModel:
    """Returns a small backbone with two dense heads, gated."""
    backbone = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1))
    heads = {"seg": nn.Conv2d(16, 4, 1), "depth": nn.Conv2d(16, 1, 1)}
    return g2s.gate(backbone, tasks=list(heads), example_inputs=(torch.randn(2, 3, 16, 16),), heads=heads)


class TwoTasks(lightning.LightningModule):
    """Segmentation and depth; the optimisers are stepped by hand, since there are two."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.gated = network()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Returns one optimiser for the weights and one for the gates."""
        both = g2s.optimisers(self.gated, lr=1e-3, steps=STEPS)
        return [both.weights, both.gates]

    def training_step(self, batch: list[torch.Tensor], index: int) -> None:
        """Adds up gradients of two batches, then takes a step."""
        x, classes, depth = batch
        y = self.gated(x)
        loss = F.cross_entropy(y["seg"], classes) + F.l1_loss(y["depth"], depth)
        self.log("loss", loss)
        self.manual_backward(loss / ACCUMULATED)
        if (index + 1) % ACCUMULATED == 0:
            for optimiser in self.optimizers():
                optimiser.step()
                optimiser.zero_grad()


def batches() -> DataLoader:
    """Returns random images and targets."""
    x = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, (x[:, 0, ::2, ::2] > 0).long(), x[:, 1:2, ::2, ::2]), batch_size=2)


def train(folder: Path, *, epochs: int = 4, resume: Path | None = None) -> TwoTasks:
    """Trains, and returns the module."""
    gates = GateCallback(freeze_at=STEPS, budget=g2s.Budget(macs=0.8))
    # An average over steps with other gates would decide otherwise; Lightning counts the steps of both optimisers.
    average = EMAWeightAveraging(decay=0.9, update_starting_at_step=2 * STEPS)
    saved = ModelCheckpoint(folder / "checkpoints", filename="{epoch}", save_top_k=-1)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", precision="bf16-mixed", enable_progress_bar=False,
        callbacks=[gates, saved, average], logger=TensorBoardLogger(folder), log_every_n_steps=1,
    )  # fmt: skip
    module = TwoTasks()
    trainer.fit(module, batches(), ckpt_path=resume)
    return module


if __name__ == "__main__":
    print(g2s.summary(train(Path(sys.argv[1] if len(sys.argv) > 1 else "lightning-run")).gated))
