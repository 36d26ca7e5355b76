"""One optimiser step over a batch that is divided among processes and parts, equal to a step on the whole batch."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gate2static.architectures.smtl import SMTL
from gate2static.balance import Balance
from gate2static.balance.look_ahead import buffers_kept, unrolled_gradient
from gate2static.balance.processes import average_gradients
from gate2static.budget import BudgetController, project_to_budget
from gate2static.errors import DivergenceError, TrainingError
from gate2static.gates import GatedModel, GateOptimiser
from gate2static.gates.settled.settling import GateSettling
from gate2static.train.loop import random_state
from gate2static.train.loop.balanced import ConflictMeter, backward_of
from gate2static.train.loop.batches import Batch
from gate2static.train.loop.losses import Means, Weights, cut, losses, other_terms, shares, task_terms
from gate2static.train.loop.network_run import NetworkRun
from gate2static.train.loop.position import Position, advice
from gate2static.train.processes.synchronised_norms import SynchronisedBatchNorm

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from gate2static.train.processes.sharding import Sharding

SizedBatch = tuple[Batch, int]
"""This process's share of a batch, and the number of images in the whole batch."""


@dataclass(frozen=True, kw_only=True)
class _PartLoss:
    """The loss of one part of a batch.

    Attributes:
        terms: The part's share of the total loss by task.
        others: Its share of all other terms; None where there are none.
        total: The part's share of the whole loss.
        values: Every weighted loss and their `total`, added up over the processes.
    """

    terms: dict[str, Tensor]
    others: Tensor | None
    total: Tensor
    values: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Training:
    """A network's training on its devices, with all that a step needs.

    Attributes:
        run: The network and its settings.
        fabric: The processes and devices, launched.
        model: The network's model as Fabric runs it.
        optimisers: The optimisers, as of `build_optimisers`.
        controller: Steers λ_s to the budget; None without a budget.
        settling: Freezes gates that no longer change; None where the recipe does not ask for it.
        balance: Balances the tasks; None for the plain sum of their losses.
        meter: Measures the tasks' conflict; None where the recipe does not ask for it.
        sharding: The network's division among the processes; None where each has the whole network.
    """

    run: NetworkRun
    fabric: "Fabric"
    model: Any
    optimisers: dict[str, Optimizer]
    controller: BudgetController | None
    settling: GateSettling | None
    balance: Balance | None = None
    meter: ConflictMeter | None = None
    sharding: "Sharding | None" = None

    @property
    def parts(self) -> dict[str, Any]:
        """The objects whose state a checkpoint holds besides the model, by name."""
        optimisers: dict[str, Any] = dict(self.optimisers)
        if self.sharding is not None:
            optimisers["weights"] = self.sharding.state_of(self.optimisers["weights"])
        parts: dict[str, Any] = {"optimisers": optimisers, "precision": self.fabric.strategy.precision}
        if self.settling is not None:
            parts["settling"] = self.settling
        if self.balance is not None:
            parts["balance"] = self.balance
        return parts

    def step(self, batch: Batch, position: Position, *, images: int, number: int) -> None:
        """Trains on this process's share of a batch.

        Args:
            batch: The share.
            position: The training's position; its sums of losses and its budget state are updated.
            images: The number of images in the whole batch.
            number: The step's number in the training.

        Raises:
            TrainingError: A loss is not finite; all processes raise the same error.
        """
        if self.controller is not None and isinstance(self.run.model, GatedModel) and not position.frozen:
            self.controller.step(self.run.model)
            if isinstance(gates := self.optimisers["gates"], GateOptimiser):
                gates.sparsity_weights = dict(self.controller.weights)
            position.budget = {"controller": self.controller.state_dict()}
        for optimiser in self.optimisers.values():
            optimiser.zero_grad()
        # The losses of all parts in all processes add up to the loss of the whole batch.
        parts = cut(batch, self._part_count(images))
        part_weights, means = shares(self.fabric, self.run.tasks, parts)
        # The hinge depends on no image, so every part has an equal share of it.
        sparsity_share = 1 / (len(parts) * self.fabric.world_size)
        common = {"sparsity": sparsity_share}
        self._look_ahead(batch, common, means)
        averages = self.balance is not None and self.balance.averages_gradients
        conflict = None
        for index, (part, weights) in enumerate(zip(parts, part_weights, strict=True)):
            is_last = index + 1 == len(parts)
            with self._without_reduction(enabled=averages or not is_last):
                common["distillation"] = len(part[0]) / images
                loss = self._loss(part, {**weights, **common}, means)
                # Raising before `backward` keeps a loss that is not finite out of the weights of all processes.
                self._add_to_epoch(loss.values, position, images)
                if index == 0:
                    conflict = self._conflict(loss, number)
                elif self.meter is not None:
                    self.meter.clear()
                self._backward(loss, is_last=is_last)
        self._update(frozen=position.frozen)
        if self.settling is not None:
            self.settling.step()
        if self.balance is not None:
            self._look_back(parts[0], {**part_weights[0], **common}, means)
        self._note_balance(position, conflict, number)

    def step_on_held_out(self, held_out: SizedBatch, following: SizedBatch) -> None:
        """Trains α of Safe MTL alone, on this process's share of a batch of held-out images (eq. 6).

        Running statistics stay those of the other images.

        Args:
            held_out: The share, and the number of images in the whole batch.
            following: The same of the batch of the others that the weights are trained on next, to which an unrolled
                gradient looks ahead.
        """
        model = self.run.model
        assert isinstance(model, SMTL)
        optimiser = self.optimisers["weights"]
        with buffers_kept(model):
            if model.unrolled:
                gradient = self._unrolled_gradient(model, held_out, following)
            else:
                (gradient,) = self._gradients(held_out, [model.logits])
        optimiser.zero_grad()  # to None, so that the optimiser passes all else over
        model.logits.grad = gradient
        optimiser.step()

    def _unrolled_gradient(self, model: SMTL, held_out: SizedBatch, following: SizedBatch) -> Tensor:
        # The virtual step is the one that follows, with the same choices and the same dropout.
        draws = random_state.capture()

        def here(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
            random_state.restore(draws)
            return self._gradients(following, parameters)

        weights = [p for p in model.parameters() if p.requires_grad and p is not model.logits]
        lr: float = self.optimisers["weights"].param_groups[0]["lr"]
        gradient = unrolled_gradient(model.logits, weights, here, partial(self._gradients, held_out), lr=lr)
        random_state.restore(draws)
        return gradient

    def _gradients(self, batch: SizedBatch, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """Returns the gradients of the loss of the batch of all processes."""
        share, images = batch
        parts = cut(share, self._part_count(images))
        part_weights, means = shares(self.fabric, self.run.tasks, parts)
        common = {"sparsity": 1 / (len(parts) * self.fabric.world_size)}
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        # Gradients of some tensors are added up by hand: DistributedDataParallel would wait for those of all.
        with self._without_reduction(enabled=True):
            for part, weights in zip(parts, part_weights, strict=True):
                common["distillation"] = len(part[0]) / images
                total = self._loss(part, {**weights, **common}, means).total
                gradients = torch.autograd.grad(total, list(parameters), materialize_grads=True)
                for summed, gradient in zip(sums, gradients, strict=True):
                    summed += gradient
        reduced = self.fabric.all_reduce(sums, reduce_op="sum")
        assert isinstance(reduced, list)
        return reduced

    def freeze(self, position: Position) -> None:
        """Projects the gates onto the budget, if there is one, and freezes them for the rest of the training.

        Args:
            position: The training's position; it gets the projection's report.

        Raises:
            BudgetError: No setting of the gates meets the budget.
        """
        assert self.settling is not None
        self.project(position)
        self.settling.settle_all()
        position.frozen = True

    def project(self, position: Position) -> None:
        """Projects the gates onto the budget, if there is one.

        Args:
            position: The training's position; it gets the projection's report.

        Raises:
            BudgetError: No setting of the gates meets the budget.
        """
        if self.run.budget is not None and isinstance(self.run.model, GatedModel):
            # The training shows its own bar.
            report = project_to_budget(self.run.model, self.run.budget, progress=False)
            position.budget["report"] = report.model_dump(mode="json")

    def _part_count(self, images: int) -> int:
        """Returns the number of parts that this process divides its share into."""
        accumulate = self.run.recipe.training.accumulate
        if images == self.run.settings.batch_size:
            return accumulate
        # Each part of a short last batch keeps two images, which is what batch norm needs.
        return max(1, min(accumulate, images // (2 * self.fabric.world_size)))

    def _backward(self, loss: _PartLoss, *, is_last: bool) -> None:
        """Adds the gradients of a part's share of the total loss."""
        # DDP averages gradients over the processes, whose losses are to be added up.
        size = self.fabric.world_size
        if self.balance is None:
            self.fabric.backward(loss.total * size)
            return
        terms = {task: term * size for task, term in loss.terms.items()}
        others = None if loss.others is None else loss.others * size
        how = backward_of(self.fabric, self.run.recipe.training.precision)
        self.balance.backward(terms, others, is_last=is_last, **how)

    def _conflict(self, loss: _PartLoss, number: int) -> dict[str, float] | None:
        """Returns the conflict of the tasks in a step whose turn it is."""
        if self.meter is None:
            return None
        every = self.run.recipe.training.conflict_steps
        assert every is not None
        conflict = self.meter.measure(loss.terms, self.balance) if number % every == 0 else None
        self.meter.clear()
        return conflict

    def _look_ahead(self, batch: Batch, common: Weights, means: Means) -> None:
        """Lets Auto-λ train its weights: one half of the batch makes the virtual step, which the other half judges."""
        if self.balance is None or not self.balance.needs_look_ahead:
            return
        halves = cut(batch, 2)
        weights, _ = shares(self.fabric, self.run.tasks, halves)
        here, there = (
            partial(self._task_terms, half, {**share, **common}, means)
            for half, share in zip(halves, weights, strict=True)
        )
        lr: float = self.optimisers["weights"].param_groups[0]["lr"]
        with self._without_reduction(enabled=True):
            self.balance.look_ahead(here, there, lr=lr)

    def _look_back(self, part: Batch, weights: Weights, means: Means) -> None:
        """Tells FAMO the losses of the batch after the step."""
        if self.balance is not None and self.balance.needs_losses_again:
            with torch.no_grad(), buffers_kept(self.run.model):
                self.balance.step(self._task_terms(part, weights, means))

    def _task_terms(self, part: Batch, weights: Weights, means: Means) -> dict[str, Tensor]:
        loss = self._loss(part, weights, means)
        if self.meter is not None:
            self.meter.clear()
        return {task: term * self.fabric.world_size for task, term in loss.terms.items()}

    def _note_balance(self, position: Position, conflict: dict[str, float] | None, number: int) -> None:
        """Adds the step's weights and scale to the sums of the epoch, and a measured conflict to the others."""
        columns: dict[str, float] = {}
        if self.balance is not None:
            columns = {f"weight/{task}": weight for task, weight in self.balance.last_weights.items()}
            columns["scale"] = self.balance.last_scale
        for name, value in columns.items():
            total, count = position.balance.get(name, (0.0, 0))
            position.balance[name] = [total + value, count + 1]
        if conflict is not None:
            position.conflict.append({"step": number, **columns, **conflict})

    def _loss(self, part: Batch, weights: Weights, means: Means) -> _PartLoss:
        uses_channels_last = self.run.recipe.training.channels_last
        memory_format = torch.channels_last if uses_channels_last else torch.preserve_format
        device = self.fabric.device
        images = part[0].to(device, memory_format=memory_format)
        targets = {name: target.to(device) for name, target in part[1].items()}
        # One process alone uses torch's own batch norm, which is faster.
        with SynchronisedBatchNorm() if self.fabric.world_size > 1 else nullcontext():
            outputs = self._outputs(images)
        loss = losses(self.run, outputs, targets, means, self._taught(images))
        terms = task_terms(self.run, loss, weights)
        others = other_terms(self.run, self.controller, loss, weights)
        total = torch.stack(list(terms.values())).sum()
        total = total if others is None else total + others
        # One reduction for all losses: each is a scalar, and the number of messages counts.
        values = [value.detach() * weights[name] for name, value in loss.items()]
        summed = self.fabric.all_reduce(torch.stack([*values, total.detach()]), reduce_op="sum")
        assert isinstance(summed, Tensor)
        by_name = dict(zip([*loss, "total"], summed.tolist(), strict=True))
        return _PartLoss(terms=terms, others=others, total=total, values=by_name)

    def _taught(self, images: Tensor) -> dict[str, Tensor] | None:
        """Returns the raw outputs of the single-task networks; None without distillation."""
        if not self.run.teachers:
            return None
        with torch.no_grad():
            return {task: teacher(images)[task] for task, teacher in self.run.teachers.items()}

    def _outputs(self, images: Tensor) -> dict[str, Tensor]:
        try:
            outputs: dict[str, Tensor] = self.model(images)
        except ValueError as error:
            # torch names no layer in this error, so the advice names the recipe's key.
            if "more than 1 value per channel" not in str(error):
                raise
            raise TrainingError(
                f"{self.run.name}: a batch norm of 1×1 maps cannot train on {len(images)} image; raise "
                f"training.{self.run.kind}.batch_size, or lower training.accumulate"
            ) from error
        return outputs

    def _add_to_epoch(self, values: dict[str, float], position: Position, images: int) -> None:
        """Adds a step's losses to those of the epoch; raises a DivergenceError where one is not finite."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise DivergenceError(
                    f"{self.run.name}: the loss of {name} is {value} in epoch {position.epoch + 1}, "
                    f"step {position.step + 1}; {advice(self.run)}"
                )
            position.sums[name] = position.sums.get(name, 0.0) + value * images

    def _without_reduction(self, *, enabled: bool) -> AbstractContextManager[Any]:
        """Postpones the sum of gradients over the processes to the last part."""
        # A divided network has no room for the gradients of all parameters, so they are summed after every part.
        if not enabled or self.fabric.world_size == 1 or self.sharding is not None:
            return nullcontext()
        return self.fabric.no_backward_sync(self.model)

    def _update(self, *, frozen: bool) -> None:
        """Clips and applies the gradients; those of gates only until these are frozen."""
        if self.sharding is not None:
            average_gradients(self.sharding.whole.encoder.get_submodule("gates"))
        if (limit := self.run.recipe.training.clip_norm) is not None:
            weights = self.optimisers["weights"]
            self.fabric.clip_gradients(self.model, weights, max_norm=limit, error_if_nonfinite=False)
        # Fabric's own step would change the scale of the gradients between the two optimisers.
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        if self.run.held_out:
            self.run.model.get_parameter("logits").grad = None  # its turn is on held-out images
        for name, optimiser in self.optimisers.items():
            if frozen and name == "gates":
                continue  # α is settled, and a winner of hard mixing that still changed would be a gate that moves
            if scaler is None:
                optimiser.step()
            else:
                scaler.step(optimiser)
        if scaler is not None:
            scaler.update()
