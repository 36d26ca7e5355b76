"""`GateCallback` in a real Trainer, on the smallest network."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor, nn
from torch.utils.data import DataLoader

import gate2static as g2s
from gate2static.errors import GateError
from gate2static.lightning import GateCallback

pytestmark = pytest.mark.filterwarnings("ignore")


class Module(lightning.LightningModule):
    def __init__(self, controller: g2s.BudgetController | None = None, networks: int = 1) -> None:
        super().__init__()
        heads = {"a": nn.Conv2d(8, 1, 1), "b": nn.Conv2d(8, 2, 1)}
        for number in range(networks):
            backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
            x = torch.randn(2, 3, 8, 8)
            setattr(self, f"gated_{number}", g2s.gate(backbone, tasks=["a", "b"], example_inputs=(x,), heads=heads))
        self.controller = controller

    def training_step(self, x: Tensor, index: int) -> Tensor:
        loss = sum(output.square().mean() for output in self.gated_0(x).values())
        if self.controller is not None:
            loss = loss + self.controller.penalty(self.gated_0, targets={"a": 0.0, "b": 0.0})
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def fit(module: Module, callback: GateCallback, folder: Path, **options: Any) -> lightning.Trainer:
    settings = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_progress_bar": False, **options}
    trainer = lightning.Trainer(callbacks=[callback], default_root_dir=folder, enable_model_summary=False, **settings)
    trainer.fit(module, DataLoader(torch.randn(12, 3, 8, 8), batch_size=2))
    return trainer


def test_gates_are_frozen_after_so_many_optimiser_steps_and_not_batches(tmp_path: Path) -> None:
    module, callback = Module(), GateCallback(freeze_at=2)
    before = g2s.gate_parameters(module.gated_0)[0].detach().clone()
    trainer = fit(module, callback, tmp_path, accumulate_grad_batches=2)
    assert (callback.steps, trainer.global_step, callback.frozen) == (3, 3, True)
    assert not any(p.requires_grad for p in g2s.gate_parameters(module.gated_0))
    assert not torch.equal(g2s.gate_parameters(module.gated_0)[0], before)
    other = GateCallback(freeze_at=4)
    fit(Module(), other, tmp_path, accumulate_grad_batches=2)
    assert (other.steps, other.frozen) == (3, False)


def test_a_controller_looks_once_per_step_and_is_part_of_the_checkpoint(tmp_path: Path) -> None:
    module = Module()
    controller = g2s.BudgetController(module.gated_0, g2s.Budget(macs=0.9), epochs=2, epoch_steps=3)
    module.controller = controller
    callback = GateCallback(controller=controller)
    fit(module, callback, tmp_path, accumulate_grad_batches=2)
    assert controller.state_dict()["step"] == 3
    fresh = g2s.BudgetController(module.gated_0, g2s.Budget(macs=0.9), epochs=2, epoch_steps=3)
    resumed = GateCallback(controller=fresh)
    resumed.load_state_dict(callback.state_dict())
    assert resumed.controller.state_dict() == controller.state_dict()
    assert resumed.steps == 3


def test_gates_settle_and_each_epoch_logs_them(tmp_path: Path) -> None:
    module = Module()
    callback = GateCallback(settle_after=2)
    trainer = fit(module, callback, tmp_path)
    (gates,) = callback.state_dict()["settling"]["gates"].values()
    assert gates["settled"].any()
    shares = g2s.gate_shares(module.gated_0)
    logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
    assert logged["gates/own/a"] == pytest.approx(shares["a"])
    assert logged["gates/static_macs"] == g2s.summary(module.gated_0).total.static_macs
    quiet = fit(Module(), GateCallback(log=False), tmp_path)
    assert not any(name.startswith("gates/") for name in quiet.logged_metrics)


@pytest.mark.parametrize(("networks", "found"), [(0, "none"), (2, "gated_0, gated_1")])
def test_a_module_without_one_gated_network_is_refused(networks: int, found: str, tmp_path: Path) -> None:
    with pytest.raises(GateError, match=f"one gated network inside, and this one has: {found}"):
        fit(Module(networks=networks) if networks else BoringModel(), GateCallback(), tmp_path)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(GateError, match="freeze_at= does not say when"):
        GateCallback(budget=g2s.Budget(macs=0.5))
    with pytest.raises(GateError, match="freeze_at"):
        GateCallback(freeze_at=0)


@pytest.mark.slow
def test_nothing_else_imports_lightning() -> None:
    imports = "import sys, gate2static as g; [getattr(g, name) for name in g.__all__]"
    subprocess.run([sys.executable, "-c", f"{imports}; assert 'lightning.pytorch' not in sys.modules"], check=True)
