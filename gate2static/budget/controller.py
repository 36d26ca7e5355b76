"""λ_s, steered so that training ends at the budget."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gate2static.budget.meter import Meter
from gate2static.errors import BudgetError
from gate2static.gates import GatedModel, sparsity_hinge
from gate2static.recipe import Budget

REACHED_AT = 0.4
"""Share of the training after which the cost should be at the budget; before, the aim falls in a straight line."""
PROPORTIONAL, INTEGRAL = 15.0, 300.0
"""Gains on log λ: for a cost that is above its aim by the whole budget, and for that much during the whole training."""
RANGE = math.log(1000)
"""How far log λ may go from where it started, up and down."""
LOOKS = 10
"""How often the cost is looked at in an epoch."""


class BudgetController:
    """A PI controller on log λ_s: one for the network, or one a task where the budget is by task.

    Ten times an epoch it compares the cost that the gates decide with its aim, a straight line from the first cost down
    to the budget, and sets

        log λ = log λ_0 + PROPORTIONAL · gap + INTEGRAL · ∫ gap dt,    gap = (cost - aim) / budget

    where t runs from 0 to 1 over the training. λ stays within a factor of 1000 of λ_0, and where it meets that bound,
    the integral does not grow further (anti-windup). A latency is predicted once an epoch; in between it follows the
    MACs. The controller brings the cost near the budget; `project_to_budget` does the rest when training is over.

    Args:
        gated: the model that will be trained; not changed.
        budget: the most that its static network may cost.
        weight: λ_0.
        epochs: how many there are in all.
        epoch_steps: optimiser steps an epoch.

    Attributes:
        weights: task -> λ now.
        costs: `network`, or task -> the cost when it was last looked at, in `unit`.
        limits: the same -> the most that it may cost.
        unit: of both: `MACs`, `ms` or `estimated ms`.

    Raises:
        BudgetError: no setting of the gates meets the budget; names the range that can be met. Or a weight, a number of
            epochs or of steps that is not positive.
    """

    def __init__(
        self, gated: GatedModel, budget: Budget, *, weight: float = 0.05, epochs: int, epoch_steps: int
    ) -> None:
        if min(weight, epochs, epoch_steps) <= 0:
            raise BudgetError(
                f"weight is {weight:g}, epochs {epochs} and epoch_steps {epoch_steps}; all must be positive."
            )
        self._meter = Meter(gated, budget)
        self._weight, self._epoch_steps, self._steps = weight, epoch_steps, epochs * epoch_steps
        self.limits, self.unit = self._meter.limits, self._meter.unit
        self.weights = dict.fromkeys(gated.tasks, weight)
        self.costs: dict[str, float] = {}
        self._step, self._looked = 0, 0
        self._first: dict[str, float] = {}
        self._integral = dict.fromkeys(self.limits, 0.0)
        self._per_mac = 1.0

    def step(self, gated: GatedModel) -> float:
        """To be called before each optimiser step; looks at the cost if it is time.

        Returns:
            λ_s for this step; the mean over the tasks where they have one each.
        """
        every = max(1, self._epoch_steps // LOOKS)
        if self._step % self._epoch_steps % every == 0:
            self._look(gated, predict=self._step % self._epoch_steps == 0)
        self._step += 1
        return sum(self.weights.values()) / len(self.weights)

    def penalty(self, gated: GatedModel, *, targets: Mapping[str, float]) -> Tensor:
        """λ_s times the sparsity hinge (eq. 5): what to add to the loss. With a λ a task, the sum over the tasks.

        Args:
            gated: the model.
            targets: τ of every task, as for `sparsity_hinge`.
        """
        if len(set(self.weights.values())) == 1:
            return self.weights[gated.tasks[0]] * sparsity_hinge(gated, targets=targets)
        # A hinge target of 1 silences the other tasks, so that each one's part of the mean is left.
        parts = [
            weight * sparsity_hinge(gated, targets={**dict.fromkeys(targets, 1.0), task: targets[task]})
            for task, weight in self.weights.items()
        ]
        return torch.stack(parts).sum()

    def look(self, gated: GatedModel) -> dict[str, float]:
        """Measures the cost now, for a log; a latency follows the MACs since it was last predicted."""
        self.costs = {name: macs * self._per_mac for name, macs in self._meter.macs(gated).items()}
        return self.costs

    def state_dict(self) -> dict[str, Any]:
        """Everything that going on bit for bit needs, as plain values."""
        return {
            "step": self._step,
            "looked": self._looked,
            "first": dict(self._first),
            "integral": dict(self._integral),
            "per_mac": self._per_mac,
            "weights": dict(self.weights),
            "costs": dict(self.costs),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state_dict`."""
        self._step, self._looked, self._per_mac = state["step"], state["looked"], state["per_mac"]
        self._first, self._integral = dict(state["first"]), dict(state["integral"])
        self.weights, self.costs = dict(state["weights"]), dict(state["costs"])

    def _look(self, gated: GatedModel, *, predict: bool) -> None:
        if predict and self._meter.slow:
            (measured,), (macs,) = self._meter.measure(gated).values(), self._meter.macs(gated).values()
            self._per_mac = measured / macs
        costs = self.look(gated)
        self._first = self._first or dict(costs)
        passed, self._looked = (self._step - self._looked) / self._steps, self._step
        for name, limit in self.limits.items():
            gap = (costs[name] - self._aim(name)) / limit
            integral = self._integral[name] + INTEGRAL * gap * passed
            wanted = PROPORTIONAL * gap + integral
            change = max(-RANGE, min(RANGE, wanted))
            if change == wanted or (wanted > 0) != (gap > 0):
                self._integral[name] = integral
            for task in [name] if name in self.weights else self.weights:
                self.weights[task] = self._weight * math.exp(change)

    def _aim(self, name: str) -> float:
        left = max(0.0, 1 - self._step / (REACHED_AT * self._steps))
        return self.limits[name] + left * max(0.0, self._first[name] - self.limits[name])
