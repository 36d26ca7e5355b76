"""`Manifest`: the description of a static model, saved beside its network."""

import math
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, model_validator

from gate2static.static.meaning import Meaning

FORMAT = "gate2static.static"
FORMAT_VERSION = 1


class TensorSpec(BaseModel):
    """One input or output of a static model.

    Attributes:
        name: The tensor's name.
        shape: The tensor's shape without the batch.
        dtype: The name of the dtype in torch, such as "float32".
        values: The least and the largest value that an example input had when the network was gated, as integers for
            integers and booleans. None for outputs, and where it is not known: in manifests of earlier versions.
        dynamic: The dimensions of `shape` that may be of any size; `shape` has those of the example.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    shape: tuple[NonNegativeInt, ...]
    dtype: str
    values: tuple[int, int] | tuple[float, float] | None = None
    dynamic: tuple[NonNegativeInt, ...] = ()

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if self.values is not None and not (
            self.values[0] <= self.values[1] and all(math.isfinite(value) for value in self.values)
        ):
            raise ValueError(f"the values {self.values} are no range")
        if any(dim >= len(self.shape) for dim in self.dynamic):
            raise ValueError(f"the dimensions {self.dynamic} are not those of {self.shape}")
        return self


class Costs(BaseModel):
    """A count for the static network, beside the same count for the networks that it is compared with.

    Attributes:
        static: The count for the static network.
        gated: The count for the gated network before pruning, with all T+1 branches.
        shared: The count for one network that all T tasks share.
        separate: The count for T single-task networks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    static: int
    gated: int
    shared: int
    separate: int

    def __getitem__(self, key: str) -> int:
        """Returns the count of this name."""
        value: int = getattr(self, key)
        return value


class Pruning(BaseModel):
    """The options of the pruning that made a static model, so that `verify` can prune again and compare.

    Attributes:
        align: Layers keep a multiple of this many output channels.
        layout: Option of the layout -> its value.
        dtype: The dtype that all floating-point numbers were converted to; None where each kept its own.
        dynamic: The names of the sizes of images that are free.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    align: PositiveInt = 1
    layout: dict[str, bool | int]
    dtype: str | None = None
    dynamic: tuple[str, ...] = ()


class Manifest(BaseModel):
    """The manifest of a static model.

    Attributes:
        format: The name of the format, always `gate2static.static`.
        version: The version of the format.
        tasks: The tasks, in the order of the outputs.
        inputs: The inputs, in the order of `forward`.
        outputs: The outputs, task by task. An output is named for its task; where the task has several, a key or an
            index follows behind a dot, as in `boxes.0`.
        gates: Unit -> one string per task, with a 1 for every task-specific channel and a 0 for every shared one.
        contributions: Unit -> per task, the share of channels in which the task has the largest mixing weight.
        macs: Multiply-accumulates per sample, heads included.
        parameters: Trained numbers, heads included; the running statistics of batch norms do not count.
        barriers: Node -> MACs per sample in the static network, for operators without a rule, which run whole.
        convolve_moves: Whether the deployed form moves the channels of images by convolutions.
        channels_first: Whether the deployed form moves the channels of tokens as rows of positions.
        pruning: The options that the model was pruned with; None in manifests of earlier versions, and where the
            network is not what pruning made, as in `StaticModel.deployed`.
        versions: Library -> the version that made the model.
        digest: The SHA-256 over graph and weights.
        equivalence: The comparisons that `verify --record` or `deliver` wrote; None before.
        budget: The budget and the cost of this network; None where the model was not made for a budget.
        meaning: What the numbers of inputs and outputs mean; None where nobody said it.
        layers: Tensor of the network -> what it is: the layer, its streams and the layer's own name for it, as in
            `layer1_0_conv1.seg_shared.weight`. Empty in manifests of earlier versions and in deployed forms.
        lacks_in_training: Layer of the gated network -> what it does in training that this network does not, so that
            `StaticModel.trainable` refuses it. None where that is not known.
        fine_tuned_from: The digest of the network that pruning made and that was trained on since; None where the
            network is as pruning made it.
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
    pruning: Pruning | None = None
    versions: dict[str, str]
    digest: str
    equivalence: dict[str, Any] | None = None
    budget: dict[str, Any] | None = None
    meaning: Meaning | None = None
    layers: dict[str, str] = {}
    lacks_in_training: dict[str, str] | None = None
    fine_tuned_from: str | None = None

    @model_validator(mode="after")
    def _one_entry_per_task(self) -> Self:
        """Refuses gates that are not those of the tasks, which pictures and tables rely on."""
        if set(self.contributions) != set(self.gates):
            raise ValueError("contributions and gates are of different units")
        for unit, flags in self.gates.items():
            is_binary = all(flag and set(flag) <= {"0", "1"} and len(flag) == len(flags[0]) for flag in flags)
            if not is_binary or not len(flags) == len(self.contributions[unit]) == len(self.tasks):
                raise ValueError(f"the gates of {unit[:60]!r} are not one string of 0 and 1 per task")
        return self

    @model_validator(mode="after")
    def _meaning_fits(self) -> Self:
        if self.meaning is None:
            return self
        inputs = {spec.name: spec.shape for spec in self.inputs}
        outputs = {spec.name: spec.shape for spec in self.outputs}
        if (misfit := self.meaning.misfit(inputs, outputs)) is not None:
            raise ValueError(misfit)
        return self
