"""What a static network may cost."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import field_validator, model_validator

from gate2static.recipe.strict import Positive, Strict

_KINDS = ("macs", "latency_ms", "latency")


class Budget(Strict):
    """The most that the static network may cost: exactly one of `macs`, `latency_ms` and `latency`.

    Raises:
        ValueError: none or several of the three, a value that is not positive, or a device where there is none to name.
    """

    macs: float | dict[str, float] | None = None
    """MACs per sample, heads included: up to 1 as a share of T separate networks, above 1 absolute. By task: the MACs
    that the network spends on this task alone (its own channels and its head), up to 1 as a share of the task's
    separate network; tasks without a number are free."""
    latency_ms: Positive | None = None
    """Latency of one sample on `device`, in ms."""
    latency: Positive | None = None
    """Latency as a share of that of T separate networks."""
    device: str | None = None
    """A latency table's JSON file, or the name of a device whose data sheet is known; for `prune --budget` also a
    backend of this machine, on which networks are timed."""

    @field_validator("macs", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        numbers = value.values() if isinstance(value, Mapping) else () if value is None else (value,)
        sound = all(isinstance(n, int | float) and not isinstance(n, bool) and 0 < n < math.inf for n in numbers)
        if not sound or value == {}:
            raise ValueError("allowed is a positive number, or one a task, such as {left: 0.3, right: 0.5}")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> "Budget":
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a budget has exactly one of {', '.join(_KINDS)}, found {' and '.join(given) or 'none'}; "
                "give the one that matters"
            )
        if self.macs is None and self.device is None:
            raise ValueError(
                f"a budget of {given[0]} needs a device; add device: a latency table's JSON file or a device's name"
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
        """The kind and its numbers, fit for a file name, such as `macs-0.5`."""
        (kind,) = (kind for kind in _KINDS if getattr(self, kind) is not None)
        value = getattr(self, kind)
        numbers = [f"{task}-{n:g}" for task, n in value.items()] if isinstance(value, dict) else [f"{value:g}"]
        return "-".join([kind, *numbers])
