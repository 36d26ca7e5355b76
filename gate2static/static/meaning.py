"""What the numbers of a static network's inputs and outputs mean, for who deploys it without the training's code."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Text = Annotated[str, Field(max_length=200)]
Activation = Literal["softmax", "sigmoid", "unit length", "none"]
"""What makes a prediction of an output, along its channels."""
_MOST = 65_536


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Picture(_Frozen):
    """The meaning of an input (N, C, H, W) that is a picture: (byte / 255 − mean) / std, channel by channel.

    Attributes:
        colours: The channels in their order, such as "RGB".
        mean: The mean that is subtracted, one number per channel, for colours in [0, 1].
        std: The deviation that is divided by, one number per channel.
    """

    colours: Text = "RGB"
    mean: tuple[float, ...] = Field(max_length=_MOST)
    std: tuple[float, ...] = Field(max_length=_MOST)

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if len(self.mean) != len(self.std) or not all(map(math.isfinite, (*self.mean, *self.std))):
            raise ValueError("mean and std are not one finite number per channel")
        if min(self.std, default=0.0) <= 0:
            raise ValueError("a std is not above 0")
        return self

    @property
    def value_range(self) -> tuple[float, float]:
        """The least and the largest number that a byte can become."""
        channels = list(zip(self.mean, self.std, strict=True))
        return min(-mean / std for mean, std in channels), max((1 - mean) / std for mean, std in channels)


class Prediction(_Frozen):
    """The meaning of an output.

    Attributes:
        kind: The kind of task, such as "semantic".
        activation: What makes a prediction of the output, along its channels: the output itself are logits where this
            is "softmax" or "sigmoid".
        unit: The unit of the prediction's numbers; None where they have none.
        classes: The names of the channels, where they have names.
    """

    kind: Text
    activation: Activation = "none"
    unit: Text | None = None
    classes: tuple[Text, ...] = Field(default=(), max_length=_MOST)


class Meaning(_Frozen):
    """The meaning of a network's inputs and outputs, as far as it is known.

    Attributes:
        inputs: Name of an input -> its meaning.
        outputs: Name of an output -> its meaning.
    """

    inputs: dict[str, Picture] = {}
    outputs: dict[str, Prediction] = {}

    def misfit(self, inputs: Mapping[str, tuple[int, ...]], outputs: Mapping[str, tuple[int, ...]]) -> str | None:
        """Returns how the meaning does not fit a network; None where it fits.

        Args:
            inputs: Name of an input -> its shape without the batch.
            outputs: Name of an output -> its shape without the batch.
        """
        for known, named, what in ((inputs, self.inputs, "input"), (outputs, self.outputs, "output")):
            if unknown := set(named) - set(known):
                return f"there is no {what} {sorted(unknown)[0]!r}, but {', '.join(known)}"
        for name, picture in self.inputs.items():
            if len(inputs[name]) != 3 or inputs[name][0] != len(picture.mean):
                return f"the input {name} {inputs[name]} is no picture of {len(picture.mean)} channels"
        for name, prediction in self.outputs.items():
            if prediction.classes and outputs[name][:1] != (len(prediction.classes),):
                return f"the output {name} {outputs[name]} has not {len(prediction.classes)} classes"
        return None


class Ends(_Frozen):
    """What an exported file computes besides the network: preprocessing before it, and the choice of classes behind it.

    Attributes:
        pictures: Name of an input that is bytes (N, H, W, C) -> how they become the network's numbers.
        classes: Name of an output that is the index of a class -> the number of classes.
    """

    pictures: dict[str, Picture] = {}
    classes: dict[str, Annotated[int, Field(ge=1, le=_MOST)]] = {}
