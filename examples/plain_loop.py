"""A plain loop: a budget that steers λ, an average of the weights, gates in TensorBoard, and fine-tuning after pruning.

Run:  python examples/plain_loop.py [FOLDER]
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

import gate2static as g2s

BUDGET = g2s.Budget(macs=0.8)
TARGETS = {"seg": 0.0, "depth": 0.0}


def network() -> g2s.GatedModel:
    """Returns a small backbone with two dense heads, gated."""
    backbone = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1))
    heads = {"seg": nn.Conv2d(16, 4, 1), "depth": nn.Conv2d(16, 1, 1)}
    return g2s.gate(backbone, tasks=list(heads), example_inputs=(torch.randn(2, 3, 16, 16),), heads=heads)


def batches() -> DataLoader:
    """Returns random images and targets."""
    x = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, (x[:, 0, ::2, ::2] > 0).long(), x[:, 1:2, ::2, ::2]), batch_size=4)


def task_loss(outputs: dict[str, Tensor], classes: Tensor, depth: Tensor) -> Tensor:
    """Returns the sum of the tasks' losses."""
    return F.cross_entropy(outputs["seg"], classes) + F.l1_loss(outputs["depth"], depth)


def train(folder: Path, *, epochs: int = 3) -> g2s.StaticModel:
    """Trains to a budget, prunes the average of the weights and trains on; returns the static network."""
    loader, gated = batches(), network()
    controller = g2s.BudgetController(gated, BUDGET, epochs=epochs, epoch_steps=len(loader))
    weights = torch.optim.AdamW(g2s.weight_parameters(gated), lr=1e-3)
    gates = torch.optim.Adam(g2s.gate_parameters(gated), lr=1e-2)
    average = AveragedModel(gated, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    with SummaryWriter(str(folder)) as writer:
        for epoch in range(epochs):
            for x, *targets in loader:
                controller.step(gated)
                loss = task_loss(gated(x), *targets) + controller.penalty(gated, targets=TARGETS)
                loss.backward()
                for optimiser in (weights, gates):
                    optimiser.step()
                    optimiser.zero_grad()
                average.update_parameters(gated)
            writer.add_scalars("own channels", g2s.gate_shares(gated), epoch)
            writer.add_scalar("static MACs", g2s.summary(gated).total.static_macs, epoch)
            writer.add_figure("gates", g2s.plot_gates(gated), epoch)
    g2s.project_to_budget(average.module, BUDGET, progress=False)
    network_on = g2s.prune(average.module).trainable()
    optimiser = torch.optim.SGD([p for p in network_on.parameters() if p.requires_grad], lr=1e-3)
    for x, *targets in loader:
        task_loss(network_on(x), *targets).backward()
        optimiser.step()
        optimiser.zero_grad()
    return network_on.static()


if __name__ == "__main__":
    print(train(Path(sys.argv[1] if len(sys.argv) > 1 else "plain-run")))
