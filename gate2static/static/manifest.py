"""What a static model says about itself: inputs, outputs, gates, costs, digests, and what verification found."""

from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt

FORMAT = "gate2static.static"
FORMAT_VERSION = 1


class TensorSpec(BaseModel):
    """One input or output; `shape` is without the batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    shape: tuple[NonNegativeInt, ...]
    dtype: str


class Costs(BaseModel):
    """A count for the static network beside those it came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    static: int
    gated: int
    shared: int
    separate: int

    def __getitem__(self, key: str) -> int:
        """By name."""
        value: int = getattr(self, key)
        return value


class Manifest(BaseModel):
    """The manifest of a static model.

    Attributes:
        format: always `gate2static.static`.
        version: of the format.
        tasks: in the order of the outputs.
        inputs: in the order of `forward`.
        outputs: one a task, named for it.
        gates: unit -> one string of 0 and 1 a task, 1 = task-specific.
        contributions: unit -> per task, the share of channels where it has the largest mixing weight.
        macs: per sample: of this network, of the gated one unpruned (all T+1 branches), of one shared network, of T
            separate networks; heads included.
        parameters: of the same networks; batch norms' running statistics not counted.
        barriers: node -> MACs per sample in this network, of operations without a rule, which run whole.
        convolve_moves: whether the deployed form moves channels by convolutions.
        channels_first: whether the deployed form moves the channels of tokens as rows.
        versions: of the libraries that made it.
        digest: SHA-256 over graph and weights.
        equivalence: what `verify` found, once it ran.
        budget: what was asked for and what this network costs, where it was made for a budget.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = FORMAT
    version: int = FORMAT_VERSION
    tasks: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    gates: dict[str, list[str]]
    contributions: dict[str, list[float]]
    macs: Costs
    parameters: Costs
    barriers: dict[str, int]
    convolve_moves: bool = False
    channels_first: bool = False
    versions: dict[str, str]
    digest: str
    equivalence: dict[str, Any] | None = None
    budget: dict[str, Any] | None = None
