"""A predicted latency, operator by operator, as a table for people and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from rich.table import Table
from torch import Tensor, nn

from gate2static.arguments import described, require_kind
from gate2static.errors import BenchError
from gate2static.latency.model import LatencyModel, OperatorCost, Precision

_ROWS = 40
"""Rows of a table for the terminal; the cheaper operators are one more row."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The latency that a model predicts for a network.

    Attributes:
        model: The name of the latency model.
        estimated: Whether the model is a data sheet's estimate and not made of measurements.
        precision: What the network is predicted to compute in; None where the model alone says it.
        batch_size: The number of samples in one forward pass.
        costs: The costs of the operators.
    """

    model: str
    estimated: bool
    precision: Precision | None = None
    batch_size: int
    costs: tuple[OperatorCost, ...]

    @property
    def latency_ms(self) -> float:
        """The latency of one forward pass in ms."""
        return sum(cost.ms for cost in self.costs)

    def as_json(self) -> dict[str, Any]:
        """Returns the prediction as plain values."""
        return {
            "model": self.model,
            "estimated": self.estimated,
            "precision": self.precision,
            "batch_size": self.batch_size,
            "latency_ms": self.latency_ms,
            "operators": [asdict(cost) for cost in self.costs],
        }

    def table(self) -> Table:
        """Returns a table for the terminal, with equal operators in one row, the most expensive first."""
        source = "estimated from a data sheet" if self.estimated else "predicted from measured kernels"
        precision = f" in {self.precision}" if self.precision else ""
        table = Table(
            title=f"{self.latency_ms:.3f} ms{precision} on {self.model}, {source}; batch size {self.batch_size}"
        )
        table.add_column("operator", no_wrap=True)
        table.add_column("shapes")
        for name in ("times", "M MACs", "estimated ms" if self.estimated else "ms", "share"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("")
        groups = _grouped(self.costs)
        for group in groups[:_ROWS]:
            cost = group.cost
            macs = f"{group.times * cost.macs / 1e6:.1f}" if cost.macs else ""
            share = f"{group.ms / self.latency_ms:.1%}" if self.latency_ms else ""
            table.add_row(cost.operator, cost.shapes, str(group.times), macs, f"{group.ms:.4f}", share, cost.note)
        if rest := groups[_ROWS:]:
            times = sum(group.times for group in rest)
            ms = sum(group.ms for group in rest)
            table.add_row(f"{len(rest)} others", "", str(times), "", f"{ms:.4f}", "", "")
        return table


def predict(
    network: nn.Module, inputs: tuple[Tensor, ...], model: LatencyModel, *, precision: Precision | None = None
) -> Prediction:
    """Predicts the latency of `network(*inputs)` without computing anything.

    Args:
        network: Any module in evaluation mode.
        inputs: The network's inputs, batch first; real or fake tensors.
        model: The latency model of a device.
        precision: What the deployed network computes in; None for what the model was measured in, or, from a data
            sheet, for the network's own dtype.

    Raises:
        BenchError: The model is of another precision, or the network does not run on these inputs, or has a layer that
            the model knows nothing of.
    """
    allowed = "a latency model, as `gate2static.latency.latency_model` returns it"
    require_kind(model, LatencyModel, name="the model", allowed=allowed, error=BenchError)
    require_kind(network, nn.Module, name="the network", allowed="a module in evaluation mode", error=BenchError)
    allowed = "a tuple of at least one tensor, batch first"
    if not isinstance(inputs, tuple | list) or not inputs or not all(isinstance(x, Tensor) and x.dim() for x in inputs):
        raise BenchError(f"the inputs are {described(inputs)}; allowed is {allowed}.")
    if precision is not None:
        model = model.at(precision)
    return Prediction(
        model=model.name,
        estimated=model.estimated,
        precision=precision,
        batch_size=len(inputs[0]),
        costs=model.breakdown(network, inputs),
    )


@dataclass(frozen=True)
class _Group:
    """Equal operators: one of them, their number, and their time in ms together."""

    cost: OperatorCost
    times: int
    ms: float


def _grouped(costs: Sequence[OperatorCost]) -> list[_Group]:
    """Returns groups of equal operators, the most expensive first."""

    def key(cost: OperatorCost) -> tuple[Any, ...]:
        return cost.operator, cost.shapes, cost.note, cost.macs, cost.ms

    groups = []
    for _, equal in groupby(sorted(costs, key=key), key=key):
        members = list(equal)
        groups.append(_Group(members[0], len(members), sum(cost.ms for cost in members)))
    return sorted(groups, key=lambda group: -group.ms)
