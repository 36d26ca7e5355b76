"""The part of a recipe that says what `search` looks for, and where."""

import json
import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from gate2static.recipe.strict import Count, Strict

Objective = Literal["delta_mtl", "worst_task", "macs", "latency_ms"]

_FIXED = {
    "name": "it names the run",
    "runs_dir": "it is the place of all runs",
    "data": "results on other data cannot be compared",
    "seed": "give the seeds in search.seeds",
    "search": "it is the search itself",
    "safe": "a search compares gated networks, which are made safe afterwards",
    "sweep": "it is for the command `sweep`",
    "sweep_targets": "it is for the command `sweep`",
    "sweep_budgets": "it is for the command `sweep`; vary budget instead",
    "sweep_balancing": "it is for the command `sweep`; vary training.shared.balancing instead",
    "architectures": "it is for the command `sweep`",
    "gating.preset": "it fills in other values before the search begins; vary these values instead",
}
"""Keys that a search cannot vary, and why."""
_SPANS = ("range", "log")


class SearchRecipe(Strict):
    """A search: the values that it may try, how many trials it takes, and what makes a network good (docs/search.md).

    A trial is one point of the space. It trains one gated network per seed.
    """

    space: Annotated[dict[str, Any], Field(min_length=1, max_length=100)]
    """A key of the recipe, such as `gating.group_size` -> a list of values, `{range: [low, high]}`, or
    `{log: [low, high]}` for a range whose logarithm is drawn evenly."""
    trials: Count | None = None
    """The number of trials; `grid` takes every point of the space once and has no number."""
    sampler: Literal["tpe", "nsga2", "random", "grid"] = "tpe"
    """Who proposes points: Optuna's tree-structured Parzen estimator or its NSGA-II; at random; or all in turn."""
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1, max_length=4)] = ("delta_mtl", "macs")
    """What the front is a front of: Δ_MTL and the gain of the worst task (higher is better), MACs as a share of T
    separate networks' and milliseconds for one sample (lower is better)."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(max_length=100)] = ()
    """The seeds that every point is trained with; the recipe's own where none is given."""
    stop_early: bool = False
    """Whether trials that are among the worse two thirds after a ninth or a third of their epochs are stopped, by
    Optuna's successive halving; needs the one objective `delta_mtl`."""
    device: str | None = None
    """The device of `latency_ms`: a backend of `bench`, which times networks on the worker's machine; or a latency
    table's JSON file or a device with a known data sheet, for which latencies are predicted."""

    @field_validator("space")
    @classmethod
    def _what_may_vary(cls, space: dict[str, Any]) -> dict[str, Any]:
        for key, values in space.items():
            for fixed, reason in _FIXED.items():
                if key == fixed or key.startswith(f"{fixed}."):
                    raise ValueError(f"{fixed} cannot vary: {reason}")
            _check_values(key, values)
        return space

    @model_validator(mode="after")
    def _parts_fit(self) -> "SearchRecipe":
        for name in ("objectives", "seeds"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} must be different")
        spans = [key for key, values in self.space.items() if isinstance(values, dict)]
        if self.sampler == "grid":
            if spans:
                raise ValueError(f"sampler: grid tries every value, and {spans[0]} is a range; give a list of values")
            if self.trials is not None:
                raise ValueError(f"sampler: grid tries all {self.grid_size} points of the space; remove trials")
        elif self.trials is None:
            raise ValueError(f"missing key trials: the number of points that {self.sampler} tries")
        if self.stop_early and self.objectives != ("delta_mtl",):
            raise ValueError(
                "stop_early needs objectives: [delta_mtl], since a network that gains little may be on the front for "
                "its cost, which is known at the end only; bound the cost by a budget, or remove stop_early"
            )
        if "latency_ms" in self.objectives and self.device is None:
            raise ValueError("latency_ms needs a device, such as device: onnxruntime, or a latency table's JSON file")
        if self.device is not None and "latency_ms" not in self.objectives:
            raise ValueError("device is for the objective latency_ms; add that, or remove device")
        return self

    @property
    def grid_size(self) -> int:
        """The number of points of a space without ranges."""
        return math.prod(len(values) for values in self.space.values())

    @property
    def slots(self) -> int:
        """The number of trials, whoever proposes them."""
        return self.grid_size if self.trials is None else self.trials


def _check_values(key: str, values: Any) -> None:
    """Raises a ValueError unless the values of a key are a list or a range."""
    if isinstance(values, list):
        texts = [json.dumps(value, sort_keys=True) for value in values]
        if not 1 <= len(values) <= 1000 or len(set(texts)) < len(texts):
            raise ValueError(f"{key}: allowed are 1 to 1000 different values, found {len(values)}")
        return
    kinds = list(values) if isinstance(values, dict) else []
    ends = values[kinds[0]] if len(kinds) == 1 and kinds[0] in _SPANS else None
    if not isinstance(ends, list) or len(ends) != 2 or not all(_is_number(end) for end in ends) or ends[0] >= ends[1]:
        raise ValueError(
            f"{key}: allowed are a list of values, {{range: [low, high]}} and {{log: [low, high]}}, with low < high"
        )
    if kinds == ["log"] and ends[0] <= 0:
        raise ValueError(f"{key}: log needs a low end above 0, found {ends[0]:g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
