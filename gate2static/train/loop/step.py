"""One optimiser step: a batch that several processes and parts have between them, as if it were one."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gate2static.budget import BudgetController
from gate2static.errors import TrainingError
from gate2static.gates import GatedModel
from gate2static.gates.settled.settling import GateSettling
from gate2static.train.loop.batches import Batch
from gate2static.train.loop.losses import Means, Weights, cut, losses, shares, total_loss
from gate2static.train.loop.network_run import Position, Stage, advice
from gate2static.train.loop.optimisers import build_optimisers
from gate2static.train.processes.devices import freeze_unused
from gate2static.train.processes.synchronised_norms import SynchronisedBatchNorm

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True, kw_only=True)
class Training:
    """A stage with all that its steps need.

    Attributes:
        model: the stage's, as Fabric runs it.
        controller: what steers λ_s, if there is a budget.
        settling: what settles gates, if that is wanted.
    """

    stage: Stage
    fabric: "Fabric"
    model: Any
    optimisers: dict[str, Optimizer]
    controller: BudgetController | None
    settling: GateSettling | None

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds besides the model."""
        always = {"optimisers": self.optimisers, "precision": self.fabric.strategy.precision}
        return always if self.settling is None else {**always, "settling": self.settling}

    def step(self, batch: Batch, position: Position, *, images: int) -> None:
        """Trains on this process's share of a batch of so many images.

        Raises:
            TrainingError: A loss is not finite; in every process the same.
        """
        if self.controller is not None and isinstance(self.stage.model, GatedModel):
            self.controller.step(self.stage.model)
            position.budget = {"controller": self.controller.state_dict()}
        for optimiser in self.optimisers.values():
            optimiser.zero_grad()
        stage, world_size = self.stage, self.fabric.world_size
        wanted = stage.recipe.training.accumulate
        # Each part of a short last batch keeps two images, which is what batch norm needs.
        count = wanted if images == stage.settings.batch_size else max(1, min(wanted, images // (2 * world_size)))
        parts = cut(batch, count)
        weighted, means = shares(self.fabric, stage.tasks, parts)
        for number, (part, weights) in enumerate(zip(parts, weighted, strict=True)):
            with self._without_reduction(enabled=number + 1 < count):
                total, noted = self._losses(part, {**weights, "sparsity": 1 / (count * world_size)}, means)
                self._note(noted, position, images)
                # DDP averages gradients over the processes, whose losses are to be added up.
                self.fabric.backward(total * world_size)
        self._update()
        if self.settling is not None:
            self.settling.step()

    def _losses(self, part: Batch, weights: Weights, means: Means) -> tuple[Tensor, dict[str, float]]:
        """A part's share of the total loss, and every loss added up over the processes."""
        memory = torch.channels_last if self.stage.recipe.training.channels_last else torch.preserve_format
        device = self.fabric.device
        images, targets = part[0].to(device, memory_format=memory), {name: y.to(device) for name, y in part[1].items()}
        with SynchronisedBatchNorm() if self.fabric.world_size > 1 else nullcontext():
            outputs = self._outputs(images)
        found = losses(self.stage, outputs, targets, means)
        total = total_loss(self.stage, self.controller, found, weights)
        values = [value.detach() * weights[name] for name, value in found.items()]
        summed = self.fabric.all_reduce(torch.stack([*values, total.detach()]), reduce_op="sum")
        assert isinstance(summed, Tensor)
        return total, dict(zip([*found, "total"], summed.tolist(), strict=True))

    def _outputs(self, images: Tensor) -> dict[str, Tensor]:
        try:
            outputs: dict[str, Tensor] = self.model(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise TrainingError(
                f"{self.stage.name}: a batch norm of 1×1 maps cannot train on {len(images)} image; raise "
                f"training.{self.stage.kind}.batch_size, or lower training.accumulate"
            ) from error
        return outputs

    def _note(self, values: dict[str, float], position: Position, images: int) -> None:
        """Adds losses to the epoch's before they can do harm: nothing that is not finite goes backwards, anywhere."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"{self.stage.name}: the loss of {name} is {value} in epoch {position.epoch + 1}, "
                    f"step {position.step + 1}; {advice(self.stage)}"
                )
            position.sums[name] = position.sums.get(name, 0.0) + value * images

    def _without_reduction(self, *, enabled: bool) -> AbstractContextManager[Any]:
        """Leaves gradients to be summed over the processes with those of the last part."""
        return self.fabric.no_backward_sync(self.model) if enabled and self.fabric.world_size > 1 else nullcontext()

    def _update(self) -> None:
        """Clips and applies the gradients."""
        if (limit := self.stage.recipe.training.clip_norm) is not None:
            weights = self.optimisers["weights"]
            self.fabric.clip_gradients(self.model, weights, max_norm=limit, error_if_nonfinite=False)
        # Fabric's own step would change the scale of the gradients between the two optimisers.
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        for optimiser in self.optimisers.values():
            if scaler is None:
                optimiser.step()
            else:
                scaler.step(optimiser)
        if scaler is not None:
            scaler.update()


def begin(stage: Stage, fabric: "Fabric", *, image: Tensor, epoch_steps: int) -> Training:
    """Puts a stage's model and optimisers where they train, as they are before the first step.

    Args:
        stage: What to train.
        fabric: The processes and devices, launched.
        image: (C, H, W), any image of the data set.
        epoch_steps: Optimiser steps an epoch.

    Raises:
        BudgetError: No setting of the gates meets the recipe's budget.
    """
    recipe, controller, settling = stage.recipe.training, None, None
    stage.model.to(fabric.device)
    if recipe.channels_last:
        stage.model.to(memory_format=torch.channels_last)
    if fabric.world_size > 1:
        freeze_unused(stage.model, image[None].to(fabric.device))
    if stage.budget is not None and isinstance(stage.model, GatedModel):
        first, epochs = stage.sparsity_weight, stage.settings.epochs
        controller = BudgetController(stage.model, stage.budget, weight=first, epochs=epochs, epoch_steps=epoch_steps)
    model = fabric.setup_module(_compiled(stage.model) if recipe.compile else stage.model)
    if isinstance(stage.model, GatedModel) and recipe.gated.settle_steps is not None:
        settling = GateSettling(stage.model, after_steps=recipe.gated.settle_steps)
    return Training(
        stage=stage,
        fabric=fabric,
        model=model,
        optimisers=build_optimisers(stage.model, stage.settings, fused=recipe.precision != "16-mixed"),
        controller=controller,
        settling=settling,
    )


def _compiled(model: nn.Module) -> nn.Module:
    compiled: Any = torch.compile(model)
    assert isinstance(compiled, nn.Module)
    return compiled
