"""What the static network costs where the gates stand, in the unit of a budget."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from gate2static.errors import BudgetError
from gate2static.gates import GatedModel, gate_decisions, set_gates
from gate2static.latency import latency_model
from gate2static.prune import expected_macs, prune
from gate2static.prune.analyse import analyse
from gate2static.recipe import Budget
from gate2static.static import StaticModel

NETWORK = "network"
"""Name of the limit of a budget for the whole network; other limits are named for their tasks."""

Measure = Callable[[StaticModel], float]
"""Latency in ms of a static network, measured on the device: `gate2static.bench.Stopwatch`."""


class Meter:
    """Measures a gated network against a budget.

    Args:
        gated: its program and tasks matter, not where its gates stand; not changed.
        budget: the most that it may cost.
        measure: times static networks where a latency is not to be predicted for `budget.device`.
        target: what the networks that are timed are pruned for; see `prune`.
        seen: is told every latency, as each takes seconds.

    Attributes:
        budget: as given.
        unit: `MACs`, `ms` as predicted from a table, `estimated ms` from a data sheet or `measured ms`; per sample.
        near: share of the budget from which on a cost is near enough: of MACs, of a prediction, which takes seconds,
            and of a measurement, which is not the same twice.
        lowest: limit -> cost with all gates shared; of a task's limit with its own shared, if that is more.
        highest: limit -> cost with all gates task-specific.
        limits: limit -> the most that it may cost; `network`, or the tasks that the budget names.

    Raises:
        BudgetError: the budget names an unknown task or lies below `lowest`, or a target without `measure`.
        BenchError: the device's latency table lacks an operator that mixed gates need.
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
        self.budget = budget
        self._seen, self._target = seen, target
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
            self.unit, self.near = "MACs", 0.999
        elif measure is not None:
            self.unit, self.near, self._latency_ms = "measured ms", 0.97, measure
        else:
            model = latency_model(budget.device)
            self.unit, self.near = "estimated ms" if model.estimated else "ms", 0.995
            self._latency_ms = lambda static: model.predict_ms(static.deployed(), static.example_inputs())
        gates = gated.gates
        with kept_gates(gated):
            set_gates(gated, False)
            self.lowest = self.measure(gated)
            set_gates(gated, True)
            self.highest = self.measure(gated)
            if self.slow and measure is None:
                # Mixed gates need operators that neither end has: a device that lacks them is found out now.
                set_gates(gated, mixed_gates(gated, 0.5))
                self.measure(gated)
            # The projection closes a task's own gates; what it then spends depends on those of the others.
            for task in self._tasks:
                set_gates(gated, {name: _all_but(gated.tasks.index(task), gate.alpha) for name, gate in gates.items()})
                self.lowest[task] = max(self.lowest[task], self.measure(gated)[task])
        self.limits = {name: self._limit(name) for name in self.lowest}
        self._refuse_unreachable()

    def measure(self, gated: GatedModel) -> dict[str, float]:
        """Limit -> the cost of the static network that the gates decide now.

        MACs are exact. A latency is that of the deployed form, predicted or timed, which takes pruning the network.
        """
        if self._latency_ms is None:
            return self.macs(gated)
        latency_ms = self._latency_ms(prune(gated, target=self._target))
        self._seen(latency_ms)
        return {NETWORK: latency_ms}

    def macs(self, gated: GatedModel) -> dict[str, float]:
        """Limit -> exact MACs, whatever the unit of the budget: what a latency follows from gate to gate."""
        if self._tasks:
            return task_macs(gated, self._tasks)
        mode, gated.training = gated.training, False
        try:
            return {NETWORK: float(expected_macs(gated))}
        finally:
            gated.training = mode

    @property
    def slow(self) -> bool:
        """Whether measuring takes a pruned network, which is slow beside counting MACs."""
        return self._latency_ms is not None

    def fits(self, costs: Mapping[str, float]) -> bool:
        """Whether no cost is above its limit."""
        return all(costs[name] <= limit for name, limit in self.limits.items())

    def describe(self, name: str, cost: float) -> str:
        """A cost as the budget states costs: as a share, in MACs or in (estimated) ms."""
        if self._relative(name):
            return f"{cost / self.highest[name]:.4g}"
        return f"{cost:.4g} {self.unit}" if self.slow else f"{cost / 1e6:.4g} M MACs"

    def _limit(self, name: str) -> float:
        value = self._value(name)
        return value * self.highest[name] if self._relative(name) else value

    def _value(self, name: str) -> float:
        given = (self.budget.macs, self.budget.latency_ms, self.budget.latency)
        value = next(v for v in given if v is not None)
        return value[name] if isinstance(value, Mapping) else value

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
    """Finds out before anything is trained whether a budget can be met.

    Raises:
        BudgetError: it cannot; names the range that can.
        Gate2StaticError: its device is unknown or its table unreadable.
    """
    Meter(gated, budget)


def _all_but(task: int, alpha: Tensor) -> Tensor:
    """Decisions in which every task but one has its own channels."""
    decisions = torch.ones_like(alpha, dtype=torch.bool)
    decisions[task] = False
    return decisions


def task_macs(gated: GatedModel, tasks: tuple[str, ...]) -> dict[str, float]:
    """Task -> MACs per sample that the static network spends on this task alone: its own channels and its head.

    With all gates task-specific that is the task's separate network, with all shared its head.
    """
    analysis = analyse(gated)
    decisions = gate_decisions(gated)
    needs = analysis.need({name: d.double() for name, d in decisions.items()})
    numberings = analysis.number(decisions)
    spent = dict.fromkeys(tasks, 0.0)
    for node, rule in analysis.rules.items():
        if not rule.info.macs:
            continue
        whole = float(rule.macs(needs[node], numberings[node]))
        for row, stream in enumerate(rule.info.streams):
            if stream < len(gated.tasks) and (task := gated.tasks[stream]) in spent:
                others = needs[node].clone()
                others[row] = 0
                spent[task] += whole - float(rule.macs(others, numberings[node]))
    return spent


def gate_logits(gated: GatedModel) -> dict[str, Tensor]:
    """The first unit of each -> its α (T, gates); units that are tied share one."""
    distinct: dict[int, tuple[str, Tensor]] = {}
    for name, gate in gated.gates.items():
        distinct.setdefault(id(gate.alpha), (name, gate.alpha.detach()))
    return dict(distinct.values())


def mixed_gates(gated: GatedModel, share: float) -> dict[str, Tensor]:
    """Decisions that are task-specific with probability `share`: random, and always the same."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(alpha.shape, generator=generator) < share for name, alpha in gate_logits(gated).items()}


@contextmanager
def kept_gates(gated: GatedModel) -> Iterator[None]:
    """Puts the gate logits back in the end."""
    before = {name: alpha.clone() for name, alpha in gate_logits(gated).items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, alpha in gate_logits(gated).items():
                alpha.copy_(before[name])
