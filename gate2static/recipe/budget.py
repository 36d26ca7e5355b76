"""The budget of a static network."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError, field_validator, model_validator

from gate2static.errors import BudgetError
from gate2static.recipe.strict import Positive, Strict

_KINDS = ("macs", "latency_ms", "latency")


class Budget(Strict):
    """The most that the static network may cost: exactly one of `macs`, `latency_ms` and `latency`.

    Raises:
        BudgetError: None or several of the three are given, a value is not positive, or a device is missing or
            superfluous.
    """

    macs: float | dict[str, float] | None = None
    """MACs per sample, heads included. Values up to 1 are a share of T separate networks, larger values are absolute.
    By task, the MACs that the network spends on this task alone (its own channels and its head); values up to 1 are a
    share of the task's separate network, and tasks without a number are not limited."""
    latency_ms: Positive | None = None
    """Latency of one sample on `device`, in ms."""
    latency: Positive | None = None
    """Latency as a share of the latency of T separate networks."""
    device: str | None = None
    """A latency table's JSON file, or the name of a device with a known data sheet. For `prune --budget` also a backend
    of this machine, which times the networks."""

    def __init__(self, *arguments: Any, **values: Any) -> None:
        if arguments:
            raise BudgetError(f"a budget takes its values by name, such as Budget({_KINDS[0]}=0.5).")
        try:
            super().__init__(**values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            reason = first["msg"].removeprefix("Value error, ")
            raise BudgetError(f"{where}: {reason}" if where else reason) from None

    # Recipes and files are validated by pydantic itself, whose errors name the place in the file.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @field_validator("macs", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        if value is None:
            return value
        numbers = list(value.values()) if isinstance(value, Mapping) else [value]
        if not numbers or not all(_is_positive_number(number) for number in numbers):
            raise ValueError("allowed is a positive number, or one per task, such as {left: 0.3, right: 0.5}")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> "Budget":
        kinds = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(
                f"a budget has exactly one of {', '.join(_KINDS)}, found {' and '.join(kinds) or 'none'}; "
                "give the one that matters"
            )
        if self.macs is None and self.device is None:
            raise ValueError(
                f"a budget of {kinds[0]} needs a device; add device: a latency table's JSON file or a device's name"
            )
        if self.macs is not None and self.device is not None:
            raise ValueError(f"a budget of macs has no device, found {self.device}; remove it, or give latency_ms")
        if self.latency is not None and self.latency > 1:
            raise ValueError(
                f"latency is a share of T separate networks' and at most 1, found {self.latency:g}; "
                "for milliseconds give latency_ms"
            )
        return self

    @property
    def label(self) -> str:
        """The kind and its numbers in a form for file names, such as `macs-0.5`."""
        (kind,) = (kind for kind in _KINDS if getattr(self, kind) is not None)
        value = getattr(self, kind)
        numbers = [f"{task}-{n:g}" for task, n in value.items()] if isinstance(value, dict) else [f"{value:g}"]
        return "-".join([kind, *numbers])


def _is_positive_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
