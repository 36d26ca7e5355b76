"""The controller that steers λ_s so that training ends at the budget."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gate2static.arguments import require_count, require_kind, require_number
from gate2static.budget.meter import Meter
from gate2static.errors import BudgetError
from gate2static.gates import GatedModel, gated_model, sparsity_hinge
from gate2static.recipe import Budget

REACHED_AT = 0.4
"""The share of the training after which the aim is the budget; before, the aim falls in a straight line."""
PROPORTIONAL = 15.0
"""The gain on log λ of a gap as large as the budget."""
INTEGRAL = 300.0
"""The gain on log λ of such a gap during the whole training."""
RANGE = math.log(1000)
"""The largest change of log λ from its first value, up or down."""
LOOKS = 10
"""Looks at the cost per epoch, at least."""


class BudgetController:
    """A PI controller on log λ_s: one for the network, or one per task where the budget is by task.

    Ten times per epoch or more often, the controller compares the cost that follows from the gates' decisions with its
    aim, a straight line from the first cost down to the budget, and sets

        log λ = log λ_0 + PROPORTIONAL · gap + INTEGRAL · ∫ gap dt,    gap = (cost - aim) / budget

    where t runs from 0 to 1 over the training. λ stays within a factor of 1000 of λ_0; at that bound the integral stops
    growing (anti-windup). A latency is predicted once per epoch and follows the MACs in between. The controller brings
    the cost near the budget; `project_to_budget` does the rest after training.

    Args:
        gated: The model that will be trained; it is not changed.
        budget: The most that the static network may cost.
        weight: λ_0.
        epochs: The number of epochs of the whole training.
        epoch_steps: Optimiser steps per epoch.
        search: The share of the training after which the gates are frozen, and the budget must be reached.
        most: The largest λ, if that is less than 1000 times the first.

    Attributes:
        weights: The current λ by task.
        costs: The cost at the last look, by limit, in `unit`. A limit is called `network`, or has its task's name.
        limits: The most that the network may cost, by limit, in `unit`.
        unit: `MACs`, `ms` or `estimated ms`.

    Raises:
        BudgetError: No setting of the gates meets the budget (the message names the range that can be met), or a
            weight, a number of epochs or of steps is not positive.
    """

    def __init__(
        self,
        gated: GatedModel,
        budget: Budget,
        *,
        weight: float = 0.05,
        epochs: int,
        epoch_steps: int,
        search: float = 1.0,
        most: float = math.inf,
    ) -> None:
        gated = gated_model(gated, error=BudgetError)
        require_count(epochs, name="epochs", error=BudgetError)
        require_count(epoch_steps, name="epoch_steps", error=BudgetError)
        if require_number(weight, name="weight", least=0, error=BudgetError) == 0:
            raise BudgetError("weight is 0, which no factor steers; give a positive number.")
        self._meter = Meter(gated, budget)
        self._weight = weight
        self._epoch_steps = epoch_steps
        require_number(search, name="search", least=0, most=1, error=BudgetError)
        self._steps = max(1, math.ceil(search * epochs * epoch_steps))
        self._highest = min(RANGE, math.log(max(most, weight) / weight))
        self.limits = self._meter.limits
        self.unit = self._meter.unit
        self.weights = dict.fromkeys(gated.tasks, weight)
        self.costs: dict[str, float] = {}
        self._step = 0
        self._looked = 0  # the step of the last look
        self._first: dict[str, float] = {}
        self._integral = dict.fromkeys(self.limits, 0.0)
        self._per_mac = 1.0

    def step(self, gated: GatedModel) -> float:
        """Advances by one step and looks at the cost if it is time; call it before each optimiser step.

        Args:
            gated: The model in training.

        Returns:
            λ_s for this step; the mean over the tasks where each task has its own.
        """
        gated = gated_model(gated, error=BudgetError)
        # Rounded down, so an epoch of 19 steps has 19 looks.
        every = max(1, self._epoch_steps // LOOKS)
        if self._step % self._epoch_steps % every == 0:
            self._look(gated, predict=self._step % self._epoch_steps == 0)
        self._step += 1
        return sum(self.weights.values()) / len(self.weights)

    def penalty(self, gated: GatedModel, *, targets: Mapping[str, float]) -> Tensor:
        """Returns the term to add to the loss: λ_s times the sparsity hinge (eq. 5), or a sum over tasks with own λ_s.

        Args:
            gated: The model in training.
            targets: τ of every task, as for `sparsity_hinge`.
        """
        gated = gated_model(gated, error=BudgetError)
        if len(set(self.weights.values())) == 1:
            return self.weights[gated.tasks[0]] * sparsity_hinge(gated, targets=targets)
        require_kind(targets, Mapping, name="targets", allowed="a dict from task to a number", error=BudgetError)
        # A hinge target of 1 silences the other tasks, so that only one task's part of the mean remains.
        parts = [
            weight * sparsity_hinge(gated, targets={**dict.fromkeys(targets, 1.0), task: targets[task]})
            for task, weight in self.weights.items()
        ]
        return torch.stack(parts).sum()

    def look(self, gated: GatedModel) -> dict[str, float]:
        """Measures the current cost by limit; a latency follows the MACs since its last prediction."""
        macs_by_limit = self._meter.macs(gated_model(gated, error=BudgetError))
        self.costs = {name: macs * self._per_mac for name, macs in macs_by_limit.items()}
        return self.costs

    def state_dict(self) -> dict[str, Any]:
        """Returns the state that an exact resume needs, as plain values."""
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
        """Restores the state of `state_dict`.

        Raises:
            BudgetError: It is the state of something else.
        """
        missing = sorted(self.state_dict().keys() - state.keys()) if isinstance(state, Mapping) else ["everything"]
        if missing:
            raise BudgetError(f"the controller's state lacks {', '.join(missing)}; give what `state_dict` returned.")
        self._step = state["step"]
        self._looked = state["looked"]
        self._per_mac = state["per_mac"]
        self._first = dict(state["first"])
        self._integral = dict(state["integral"])
        self.weights = dict(state["weights"])
        self.costs = dict(state["costs"])

    def _look(self, gated: GatedModel, *, predict: bool) -> None:
        if predict and self._meter.slow:
            (latency_ms,) = self._meter.measure(gated).values()
            (macs,) = self._meter.macs(gated).values()
            self._per_mac = latency_ms / macs
        costs = self.look(gated)
        self._first = self._first or dict(costs)
        passed = (self._step - self._looked) / self._steps
        self._looked = self._step
        for name, limit in self.limits.items():
            gap = (costs[name] - self._aim(name)) / limit
            integral = self._integral[name] + INTEGRAL * gap * passed
            unbounded = PROPORTIONAL * gap + integral
            change = max(-RANGE, min(self._highest, unbounded))
            # Anti-windup: at the bound, the integral changes only if that leads back.
            if change == unbounded or (unbounded > 0) != (gap > 0):
                self._integral[name] = integral
            for task in [name] if name in self.weights else self.weights:
                self.weights[task] = self._weight * math.exp(change)

    def _aim(self, name: str) -> float:
        left = max(0.0, 1 - self._step / (REACHED_AT * self._steps))
        return self.limits[name] + left * max(0.0, self._first[name] - self.limits[name])
