"""A predicted latency, operator by operator, for people and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from gate2static.latency.model import LatencyModel, OperatorCost

_ROWS = 40


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a latency model says of a network.

    Attributes:
        model: the name of the latency model.
        estimated: whether it is a data sheet's estimate, not made of measurements.
        batch_size: samples in one forward pass.
        costs: operator by operator.
    """

    model: str
    estimated: bool
    batch_size: int
    costs: tuple[OperatorCost, ...]

    @property
    def latency_ms(self) -> float:
        """Of one forward pass."""
        return sum(cost.ms for cost in self.costs)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "model": self.model,
            "estimated": self.estimated,
            "batch_size": self.batch_size,
            "latency_ms": self.latency_ms,
            "operators": [asdict(cost) for cost in self.costs],
        }

    def table(self) -> Table:
        """For the terminal: equal operators in one row, the dearest first."""
        kind = "estimated from a data sheet" if self.estimated else "predicted from measured units"
        table = Table(title=f"{self.latency_ms:.3f} ms on {escape(self.model)}, {kind}; batch size {self.batch_size}")
        table.add_column("operator", no_wrap=True)
        table.add_column("shapes")
        for name in ("times", "M MACs", "estimated ms" if self.estimated else "ms", "share"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("")
        groups = _grouped(self.costs)
        for cost, times, ms in groups[:_ROWS]:
            share = f"{ms / self.latency_ms:.1%}" if self.latency_ms else ""
            macs = f"{times * cost.macs / 1e6:.1f}" if cost.macs else ""
            table.add_row(cost.operator, cost.shapes, str(times), macs, f"{ms:.4f}", share, cost.note)
        if rest := groups[_ROWS:]:
            ms = sum(ms for _, _, ms in rest)
            table.add_row(f"{len(rest)} others", "", str(sum(n for _, n, _ in rest)), "", f"{ms:.4f}", "", "")
        return table


def predict(network: nn.Module, inputs: tuple[Tensor, ...], model: LatencyModel) -> Prediction:
    """Predict `network(*inputs)`; nothing is computed.

    Raises:
        BenchError: the network does not run on these inputs, or has a layer that the model knows nothing of.
    """
    costs = model.breakdown(network, inputs)
    return Prediction(model=model.name, estimated=model.estimated, batch_size=len(inputs[0]), costs=costs)


def _grouped(costs: Sequence[OperatorCost]) -> list[tuple[OperatorCost, int, float]]:
    """Equal operators with their number and their time in all, the dearest first."""

    def key(cost: OperatorCost) -> tuple[Any, ...]:
        return cost.operator, cost.shapes, cost.note, cost.macs, cost.ms

    groups = [list(group) for _, group in groupby(sorted(costs, key=key), key=key)]
    rows = [(group[0], len(group), sum(cost.ms for cost in group)) for group in groups]
    return sorted(rows, key=lambda row: -row[2])
