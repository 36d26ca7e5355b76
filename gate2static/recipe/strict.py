"""The base model of all parts of a recipe."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]


class Strict(BaseModel):
    """A frozen model that rejects unknown keys, NaN and silent conversions such as `true` to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
