"""The cost of the static network that the gates decide now, in the unit of a budget."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from gate2static.arguments import described, require_kind
from gate2static.errors import BudgetError
from gate2static.gates import GatedModel, gate_decisions, gated_model, set_gates
from gate2static.latency import latency_model
from gate2static.prune import expected_macs, prune
from gate2static.prune.analyse import analyse
from gate2static.recipe import Budget
from gate2static.static import StaticModel

NETWORK = "network"
"""The name of the limit for the whole network; other limits have their tasks' names."""

Measure = Callable[[StaticModel], float]
"""A function that measures a static network's latency in ms on the device, such as `gate2static.bench.Stopwatch`."""


class Meter:
    """Measures a gated network against a budget.

    Args:
        gated: The network to measure. Only its program and tasks matter here, and it is not changed.
        budget: The most that the static network may cost.
        measure: Times static networks; None predicts latencies for `budget.device`.
        target: The runtime that timed networks are laid out for, as for `prune`.
        seen: Is called with every latency in ms, because each takes seconds.

    Attributes:
        budget: The budget.
        unit: The unit of costs, per sample: `MACs`, `ms` for predictions from a table, `estimated ms` from a data
            sheet, or `measured ms`.
        near: The share of the budget from which a cost is near enough. It is smaller for predictions, which take
            seconds, and smallest for measurements, which vary.
        lowest: The cost by limit with all gates shared; for a task's limit, with the task's own gates shared if that
            costs more.
        highest: The cost by limit with all gates task-specific.
        limits: The most that the network may cost, by limit. A limit is called `network`, or has its task's name.

    Raises:
        BudgetError: The budget names an unknown task or is below `lowest`, or there is a target without `measure`.
        BenchError: The device's latency table lacks an operator that mixed gates need.
    """

    def __init__(
        self,
        gated: GatedModel,
        budget: Budget,
        *,
        measure: Measure | None = None,
        target: str = "any",
        seen: Callable[[float], None] = lambda ms: None,
    ) -> None:
        gated = gated_model(gated, error=BudgetError)
        allowed = "a Budget, such as `Budget(macs=0.5)`"
        self.budget: Budget = require_kind(budget, Budget, name="the budget", allowed=allowed, error=BudgetError)
        if measure is not None and not callable(measure):
            allowed = "a function from a static network to ms, such as `gate2static.Stopwatch`"
            raise BudgetError(f"measure is {described(measure)}; allowed is {allowed}.")
        self._seen = seen
        self._target = target
        self._tasks = tuple(budget.macs) if isinstance(budget.macs, Mapping) else ()
        if unknown := sorted(set(self._tasks) - set(gated.tasks)):
            raise BudgetError(
                f"the budget names {', '.join(unknown)}; the network's tasks are {', '.join(gated.tasks)}."
            )
        self._latency_ms: Measure | None = None
        if measure is not None and budget.device is None:
            raise BudgetError("a budget of MACs is counted, not measured; leave out measure=, or give latency_ms.")
        if measure is None and target != "any":
            raise BudgetError(f"target={target!r} is for networks that are timed; give measure= or leave it out.")
        if budget.device is None:
            self.unit = "MACs"
            self.near = 0.999
        elif measure is not None:
            self.unit = "measured ms"
            self.near = 0.97
            self._latency_ms = measure
        else:
            model = latency_model(budget.device)
            self.unit = "estimated ms" if model.estimated else "ms"
            self.near = 0.995
            self._latency_ms = lambda static: model.predict_ms(static.deployed(), static.example_inputs())
        gates = gated.gates
        with kept_gates(gated):
            # Both ends, from which shares of separate networks and unreachable budgets follow.
            set_gates(gated, False)
            self.lowest = self.measure(gated)
            set_gates(gated, True)
            self.highest = self.measure(gated)
            if self.slow and measure is None:
                # Mixed gates need operators that neither end has; a latency table that lacks them fails here.
                set_gates(gated, mixed_gates(gated, 0.5))
                self.measure(gated)
            # The projection closes a task's own gates; the task's cost then depends on the gates of other tasks.
            for task in self._tasks:
                row = gated.tasks.index(task)
                set_gates(gated, {name: _all_but(row, gate.alpha) for name, gate in gates.items()})
                self.lowest[task] = max(self.lowest[task], self.measure(gated)[task])
        self.limits = {name: self._limit(name) for name in self.lowest}
        self._refuse_unreachable()

    def measure(self, gated: GatedModel) -> dict[str, float]:
        """Returns the cost by limit of the static network that the gates decide now.

        MACs are exact. A latency is predicted or timed for the deployed form, so the network is pruned for it.
        """
        if self._latency_ms is None:
            return self.macs(gated)
        latency_ms = self._latency_ms(prune(gated, target=self._target))
        self._seen(latency_ms)
        return {NETWORK: latency_ms}

    def macs(self, gated: GatedModel) -> dict[str, float]:
        """Returns the exact MACs by limit, whatever the budget's unit; a latency follows them between measurements."""
        if self._tasks:
            return task_macs(gated, self._tasks)
        # `expected_macs` reads the model's own flag only, so no module has to change its mode.
        was_training = gated.training
        gated.training = False
        try:
            return {NETWORK: float(expected_macs(gated))}
        finally:
            gated.training = was_training

    @property
    def slow(self) -> bool:
        """Whether a measurement needs a pruned network, which takes much longer than counting MACs."""
        return self._latency_ms is not None

    def fits(self, costs: Mapping[str, float]) -> bool:
        """Returns whether no cost is above its limit."""
        return all(costs[name] <= limit for name, limit in self.limits.items())

    def describe(self, name: str, cost: float) -> str:
        """Returns a cost in the form of the budget: a share, MACs or milliseconds."""
        if self._relative(name):
            return f"{cost / self.highest[name]:.4g}"
        return f"{cost:.4g} {self.unit}" if self.slow else f"{cost / 1e6:.4g} M MACs"

    def _limit(self, name: str) -> float:
        value = self._value(name)
        return value * self.highest[name] if self._relative(name) else value

    def _value(self, name: str) -> float:
        values = (self.budget.macs, self.budget.latency_ms, self.budget.latency)
        value = next(value for value in values if value is not None)
        return float(value[name] if isinstance(value, Mapping) else value)

    def _relative(self, name: str) -> bool:
        return self.budget.latency is not None or (self.budget.macs is not None and self._value(name) <= 1)

    def _refuse_unreachable(self) -> None:
        for name, limit in self.limits.items():
            if limit >= self.lowest[name]:
                continue
            what, shared = ("budget", "all gates") if name == NETWORK else (f"budget of {name}", "its gates")
            of = f"{self.unit} of " if self.slow else ""
            share = f", as a share of the {of}separate networks" if self._relative(name) else ""
            if not share and not self.slow:
                share = " a sample, as it is above 1 and so no share"
            raise BudgetError(
                f"the {what} is {self.describe(name, limit)}{share}, below what can be reached: "
                f"{self.describe(name, self.lowest[name])} with {shared} shared; with all task-specific it is "
                f"{self.describe(name, self.highest[name])}{', and mixed gates may cost more' * self.slow}. "
                "Raise it or shrink the backbone."
            )


def check_budget(gated: GatedModel, budget: Budget) -> None:
    """Checks before training that a budget can be met.

    Args:
        gated: The network that will be trained.
        budget: The most that the static network may cost.

    Raises:
        BudgetError: No setting of the gates meets the budget; the message names the range that can be met.
        Gate2StaticError: The budget's device is unknown, or its table cannot be read.
    """
    Meter(gated, budget)


def _all_but(task: int, alpha: Tensor) -> Tensor:
    """Returns decisions in which every task except one has its own channels."""
    decisions = torch.ones_like(alpha, dtype=torch.bool)
    decisions[task] = False
    return decisions


def task_macs(gated: GatedModel, tasks: tuple[str, ...]) -> dict[str, float]:
    """Returns, by task, the MACs per sample that the static network spends on this task alone.

    These are the MACs of the task's own channels and its head: those of its separate network if all gates are
    task-specific, and those of its head if all gates are shared.
    """
    analysis = analyse(gated)
    decisions = gate_decisions(gated)
    needs = analysis.need({name: d.double() for name, d in decisions.items()})
    numberings = analysis.number(decisions)
    macs_by_task = dict.fromkeys(tasks, 0.0)
    for node, rule in analysis.rules.items():
        if not rule.info.macs:
            continue
        whole = float(rule.macs(needs[node], numberings[node]))
        for row, stream in enumerate(rule.info.streams):
            if stream < len(gated.tasks) and (task := gated.tasks[stream]) in macs_by_task:
                # The layer without this task's stream: the difference is what the task alone needs.
                others = needs[node].clone()  # (streams, channels)
                others[row] = 0
                macs_by_task[task] += whole - float(rule.macs(others, numberings[node]))
    return macs_by_task


def gate_logits(gated: GatedModel) -> dict[str, Tensor]:
    """Returns the distinct gate logits α (tasks, gates) by the first unit that has them; tied units share one α."""
    distinct: dict[int, tuple[str, Tensor]] = {}
    for name, gate in gated.gates.items():
        distinct.setdefault(id(gate.alpha), (name, gate.alpha.detach()))
    return dict(distinct.values())


def mixed_gates(gated: GatedModel, share: float) -> dict[str, Tensor]:
    """Returns random decisions that are task-specific with probability `share`, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(alpha.shape, generator=generator) < share for name, alpha in gate_logits(gated).items()}


@contextmanager
def kept_gates(gated: GatedModel) -> Iterator[None]:
    """Restores the gate logits at the end of a block."""
    before = {name: alpha.clone() for name, alpha in gate_logits(gated).items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, alpha in gate_logits(gated).items():
                alpha.copy_(before[name])
