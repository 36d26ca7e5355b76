"""The projection onto a budget: the least certain gates become shared until the static network fits."""

from bisect import bisect_left

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from gate2static.arguments import require_kind
from gate2static.budget.meter import NETWORK, Measure, Meter, gate_logits, kept_gates
from gate2static.errors import BudgetError
from gate2static.gates import GatedModel, gated_model
from gate2static.progress import progress_bar
from gate2static.recipe import Budget

FLIPPED = 0.01
"""The largest |α| of a flipped gate; it is small, so that the gate is among the first to flip again in training."""
_USUAL_LATENCIES = 10
"""The usual number of latencies in a projection, for the progress bar."""
_COUNTS = 400
"""The number of flips that the projection tries to revert where the budget is in MACs."""
_LATENCIES = 6
"""The number of flips that it tries to revert where the budget is a latency, which takes seconds."""


class BudgetReport(BaseModel):
    """The result of a projection onto a budget.

    Attributes:
        budget: The budget.
        unit: The unit of costs, per sample: `MACs`, `ms` for predictions from a table, `estimated ms` from a data
            sheet, or `measured ms`.
        limits: The most that the network may cost, by limit. A limit is called `network`, or has its task's name.
        before: The costs before the projection, by limit.
        after: The costs after the projection, by limit; none is above its limit.
        flips: By unit, the number of gates that became shared. Tied units count once, under the first unit's name.
        target: The runtime that measured networks were laid out for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget: Budget
    unit: str
    limits: dict[str, float]
    before: dict[str, float]
    after: dict[str, float]
    flips: dict[str, int]
    target: str = "any"

    def __str__(self) -> str:
        """Returns a summary in one line."""
        scale, unit = (1e6, "M MACs") if self.unit == "MACs" else (1.0, self.unit)
        costs = []
        for name, limit in self.limits.items():
            task = "" if name == NETWORK else f"{name} "
            costs.append(
                f"{task}{self.after[name] / scale:.4g} of {limit / scale:.4g} {unit} "
                f"(before: {self.before[name] / scale:.4g})"
            )
        return f"{', '.join(costs)}; {sum(self.flips.values())} gates flipped"


def project_to_budget(
    gated: GatedModel, budget: Budget, *, measure: Measure | None = None, target: str = "any", progress: bool = True
) -> BudgetReport:
    """Makes the least certain task-specific gates (smallest α) shared until the static network fits the budget.

    Then every flip that still fits is reverted, the most certain first. A network that fits already is not changed: a
    budget is the most that it may cost. Groups of channels and tied units flip together, because they share an α.

    Args:
        gated: The network, changed in place: the α of flipped gates becomes negative and small.
        budget: The most that the static network may cost.
        measure: Times static networks on the device, such as `gate2static.bench.Stopwatch("onnxruntime")`; None
            predicts latencies.
        target: The runtime that timed networks are laid out for, such as "ort-cpu"; prune the result for the same
            target.
        progress: Whether to show a bar on stderr, where stderr is a terminal and the budget is a latency.

    Returns:
        The flipped gates, and the costs before and after.

    Raises:
        BudgetError: No setting of the gates meets the budget (the message names the range that can be met), or there is
            a target for a cost that is not timed. The network is not changed.
        BenchError: The device is unknown, lacks a layer, or fails.
    """
    gated = gated_model(gated, error=BudgetError)
    require_kind(budget, Budget, name="the budget", allowed="a Budget, such as `Budget(macs=0.5)`", error=BudgetError)
    with progress_bar(visible=progress and budget.device is not None) as bar:
        task = bar.add_task("projecting", total=_USUAL_LATENCIES)
        meter = Meter(
            gated,
            budget,
            measure=measure,
            target=target,
            seen=lambda ms: bar.update(task, advance=1, description=f"projecting: {ms:.4g} ms"),
        )
        before = meter.measure(gated)
        flipped = _Gates(gated)
        if not meter.fits(before):
            with kept_gates(gated):
                after = _project(gated, meter, flipped, before)
            flipped.write()
        else:
            after = before
    return BudgetReport(
        budget=budget,
        unit=meter.unit,
        limits=meter.limits,
        before=before,
        after=after,
        flips=flipped.count(),
        target=target,
    )


class _Gates:
    """All gates of a network as one vector, with the gates that the projection closes."""

    def __init__(self, gated: GatedModel) -> None:
        self._logits = gate_logits(gated)
        logits = self._logits.values()
        self._tasks = gated.tasks
        self._values = torch.cat([alpha.flatten() for alpha in logits]).clone()  # (gates of all units and tasks,)
        task_rows = [torch.arange(len(alpha)).repeat_interleave(alpha.shape[1]) for alpha in logits]
        self._row = torch.cat(task_rows)  # the task's row of each gate
        self.closed = torch.zeros_like(self._row, dtype=torch.bool)

    def open(self, name: str) -> Tensor:
        """Returns the indices of the open gates that matter to a limit, the least certain first."""
        matters = (self._values.cpu() > 0) & ~self.closed
        if name != NETWORK:
            matters &= self._row == self._tasks.index(name)
        candidates = matters.nonzero().flatten()
        order: Tensor = self._values.cpu()[candidates].argsort(stable=True)
        return candidates[order]

    def closed_gates(self) -> list[int]:
        """Returns the indices of the closed gates, the most certain first."""
        indices = self.closed.nonzero().flatten()
        order: list[int] = indices[self._values.cpu()[indices].argsort(descending=True, stable=True)].tolist()
        return order

    def task(self, index: int) -> str:
        """Returns the task that a gate belongs to."""
        return self._tasks[int(self._row[index])]

    def write(self) -> None:
        """Writes the decisions to the network's α."""
        closed = self.closed.to(self._values.device)
        # A closed gate gets its old α with the other sign, at most `FLIPPED`.
        values = torch.where(closed, -self._values.clamp(max=FLIPPED), self._values)
        parts = values.split([a.numel() for a in self._logits.values()])
        with torch.no_grad():
            for alpha, part in zip(self._logits.values(), parts, strict=True):
                alpha.copy_(part.view_as(alpha))

    def count(self) -> dict[str, int]:
        """Returns the number of closed gates by unit, for units with closed gates."""
        parts = self.closed.split([a.numel() for a in self._logits.values()])
        return {name: int(part.sum()) for name, part in zip(self._logits, parts, strict=True) if part.any()}


def _project(gated: GatedModel, meter: Meter, gates: _Gates, now: dict[str, float]) -> dict[str, float]:
    """Closes gates limit by limit, and then opens those that are not needed; returns the costs."""
    while not meter.fits(now):  # closing one task's gates may change another task's costs
        for name, limit in meter.limits.items():
            if now[name] > limit:
                now = _close(gated, meter, gates, name, now)
    return _reopen(gated, meter, gates, now)


def _close(gated: GatedModel, meter: Meter, gates: _Gates, name: str, now: dict[str, float]) -> dict[str, float]:
    """Closes as few gates as one limit needs, the least certain first, and returns the costs.

    The number of gates is found by bisection, as costs are nearly monotone in it. Where they are not monotone, the
    result still fits, because it was measured.
    """
    order = gates.open(name)
    limit = meter.limits[name]
    start = gates.closed.clone()
    if not len(order):
        raise BudgetError(
            f"the budget of {name} is {meter.describe(name, limit)}, and with all its gates shared it still costs "
            f"{meter.describe(name, now[name])}; raise it, or limit the other tasks as well."
        )

    def close(count: int) -> None:
        gates.closed.copy_(start)
        gates.closed[order[:count]] = True
        gates.write()

    def macs(count: int) -> float:
        close(count)
        return meter.macs(gated)[name]

    measured: dict[int, dict[str, float]] = {}
    low, high = 0, len(order)  # `low` gates are too few and `high` are enough: with all shared, the cost is the lowest
    guesses = 4 if meter.slow else 0
    per_mac = now[name] / macs(0) if meter.slow else 0.0
    while high - low > 1:
        middle = (low + high) // 2
        if guesses:
            # A latency takes seconds, so try first where the latency should be just below the limit, as MACs predict.
            guesses -= 1
            budget = (1 + meter.near) / 2 * limit / per_mac
            middle = bisect_left(range(low + 1, high - 1), True, lo=0, key=lambda n: macs(n) <= budget) + low + 1
        close(middle)
        measured[middle] = meter.measure(gated)
        cost = measured[middle][name]
        if cost <= limit:
            high = middle
        else:
            low = middle
        if meter.slow:
            per_mac = cost / macs(middle)
            # Each further step takes seconds and gains less than the noise.
            if meter.near * limit <= cost <= limit:
                break
    close(high)
    return measured.get(high) or meter.measure(gated)


def _reopen(gated: GatedModel, meter: Meter, gates: _Gates, now: dict[str, float]) -> dict[str, float]:
    """Opens closed gates again where all limits still hold, the most certain first, and returns the costs."""
    tries = _LATENCIES if meter.slow else _COUNTS
    for index in gates.closed_gates():
        name = NETWORK if NETWORK in now else gates.task(index)
        if tries == 0 or now[name] >= meter.near * meter.limits[name]:
            continue
        tries -= 1
        gates.closed[index] = False
        gates.write()
        costs = meter.measure(gated)
        if meter.fits(costs):
            now = costs
        else:
            gates.closed[index] = True
    gates.write()
    return now
