"""What a backend makes of a network's operators: which run, and which are done on the way by others."""

from collections.abc import Sequence
from dataclasses import dataclass

from gate2static.latency.operators import Operator
from gate2static.latency.units import Unit, unit_of


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operator as a backend runs it.

    Attributes:
        unit: what to look up; None where it costs nothing.
        note: why it costs nothing, or what else it costs.
    """

    operator: Operator
    unit: Unit | None
    note: str = ""


def lower(operators: Sequence[Operator], backend: str) -> list[Step]:
    """The steps that `backend` takes, in order."""
    return [Step(operator=operator, unit=unit_of(operator)) for operator in operators]
