"""The end of a budget: the gates that are least certain become shared until the static network fits."""

from bisect import bisect_left

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from gate2static.budget.meter import NETWORK, Measure, Meter, gate_logits, kept_gates
from gate2static.errors import BudgetError
from gate2static.gates import GatedModel
from gate2static.progress import progress_bar
from gate2static.recipe import Budget

FLIPPED = 0.01
"""Largest |α| of a flipped gate, small so that it stays among the first to flip again."""
_USUAL_LATENCIES = 10
"""How many latencies a projection usually takes, for the progress bar."""
_COUNTS, _LATENCIES = 400, 6
"""How often giving back is tried: by counting MACs, and by latency, which takes seconds."""


class BudgetReport(BaseModel):
    """What projecting to a budget did.

    Attributes:
        budget: what was asked.
        unit: of the costs below: `MACs`, `ms` as predicted from a table, `estimated ms` from a data sheet or
            `measured ms`; per sample.
        limits: `network`, or tasks -> the most that it may cost.
        before: the costs that the gates decided.
        after: the costs that they decide now; none is above its limit.
        flips: unit -> gates that became shared; units that are tied count once, under the first one's name.
        target: what the network was pruned for when it was measured.
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
        """One line for people."""
        scale, unit = (1e6, "M MACs") if self.unit == "MACs" else (1.0, self.unit)
        costs = (
            f"{'' if name == NETWORK else f'{name} '}{self.after[name] / scale:.4g} of {limit / scale:.4g} {unit} "
            f"(before: {self.before[name] / scale:.4g})"
            for name, limit in self.limits.items()
        )
        return f"{', '.join(costs)}; {sum(self.flips.values())} gates flipped"


def project_to_budget(
    gated: GatedModel, budget: Budget, *, measure: Measure | None = None, target: str = "any", progress: bool = True
) -> BudgetReport:
    """Make the task-specific gates that are least certain (smallest α) shared until the static network fits.

    Then give back every flip that still fits, the most certain first. A network that fits already is not changed: a
    budget is the most that it may cost. Groups of channels and tied units flip together, as they share an α.

    Args:
        gated: changed in place: the α of flipped gates becomes negative and small.
        budget: the most that the static network may cost.
        measure: times static networks on the device, such as `gate2static.bench.Stopwatch("onnxruntime")`, for a
            latency that is not to be predicted.
        target: what the networks that are timed are pruned for, "ort-cpu" for one; prune the result for the same.
        progress: show a bar on stderr, where that is a terminal and latencies are asked for.

    Raises:
        BudgetError: no setting of the gates meets the budget; names the range that can be met. Nothing is changed.
            Or a target for a cost that is not timed.
        BenchError: the device is unknown, lacks a layer, or fails.
    """
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
    """All gates of a network as one row: which are closed on top of those that were."""

    def __init__(self, gated: GatedModel) -> None:
        self._logits = gate_logits(gated)
        self._values = torch.cat([a.flatten() for a in self._logits.values()]).clone()
        self._tasks = gated.tasks
        self._row = torch.cat([torch.arange(len(a)).repeat_interleave(a.shape[1]) for a in self._logits.values()])
        self.closed = torch.zeros_like(self._row, dtype=torch.bool)

    def open(self, name: str) -> Tensor:
        """Indices of the gates that are open and matter to a limit, the least certain first."""
        matters = (self._values.cpu() > 0) & ~self.closed
        if name != NETWORK:
            matters &= self._row == self._tasks.index(name)
        candidates = matters.nonzero().flatten()
        order: Tensor = self._values.cpu()[candidates].argsort(stable=True)
        return candidates[order]

    def given_back_first(self) -> list[int]:
        """Indices of the gates that were closed, the most certain first."""
        indices = self.closed.nonzero().flatten()
        order: list[int] = indices[self._values.cpu()[indices].argsort(descending=True, stable=True)].tolist()
        return order

    def task(self, index: int) -> str:
        """Whose gate it is."""
        return self._tasks[int(self._row[index])]

    def write(self) -> None:
        """Sets the network's α."""
        closed = self.closed.to(self._values.device)
        values = torch.where(closed, -self._values.clamp(max=FLIPPED), self._values)
        parts = values.split([a.numel() for a in self._logits.values()])
        with torch.no_grad():
            for alpha, part in zip(self._logits.values(), parts, strict=True):
                alpha.copy_(part.view_as(alpha))

    def count(self) -> dict[str, int]:
        """Unit -> gates that were closed, where any were."""
        parts = self.closed.split([a.numel() for a in self._logits.values()])
        return {name: int(part.sum()) for name, part in zip(self._logits, parts, strict=True) if part.any()}


def _project(gated: GatedModel, meter: Meter, gates: _Gates, now: dict[str, float]) -> dict[str, float]:
    """Closes gates limit by limit, then gives back; returns the costs."""
    while not meter.fits(now):  # closing a task's gates may touch another's costs, so look again
        for name, limit in meter.limits.items():
            if now[name] > limit:
                now = _close(gated, meter, gates, name, now)
    return _give_back(gated, meter, gates, now)


def _close(gated: GatedModel, meter: Meter, gates: _Gates, name: str, now: dict[str, float]) -> dict[str, float]:
    """Closes as few gates as one limit asks for, the least certain first, found by bisection; returns the costs.

    Costs are nearly monotone in the number of closed gates. Where they are not, the result still fits: it was measured.
    """
    order, limit, start = gates.open(name), meter.limits[name], gates.closed.clone()
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

    found: dict[int, dict[str, float]] = {}
    low, high = 0, len(order)  # `low` are too few, `high` are enough: with all shared, the cost is the lowest
    guesses, per_mac = (4, now[name] / macs(0)) if meter.slow else (0, 0.0)
    while high - low > 1:
        middle = (low + high) // 2
        if guesses:  # where MACs say that it should fit, and not only just: a latency takes seconds
            guesses -= 1
            budget = (1 + meter.near) / 2 * limit / per_mac
            middle = bisect_left(range(low + 1, high - 1), True, lo=0, key=lambda n: macs(n) <= budget) + low + 1
        close(middle)
        found[middle] = meter.measure(gated)
        cost = found[middle][name]
        low, high = (low, middle) if cost <= limit else (middle, high)
        if meter.slow:
            per_mac = cost / macs(middle)
            if meter.near * limit <= cost <= limit:
                break
    close(high)
    return found.get(high) or meter.measure(gated)


def _give_back(gated: GatedModel, meter: Meter, gates: _Gates, now: dict[str, float]) -> dict[str, float]:
    """Opens closed gates again where all limits still hold, the most certain first; returns the costs."""
    tries = _LATENCIES if meter.slow else _COUNTS
    for index in gates.given_back_first():
        name = NETWORK if NETWORK in now else gates.task(index)
        if tries == 0 or now[name] >= meter.near * meter.limits[name]:
            continue
        tries -= 1
        gates.closed[index] = False
        gates.write()
        if meter.fits(found := meter.measure(gated)):
            now = found
        else:
            gates.closed[index] = True
    gates.write()
    return now
