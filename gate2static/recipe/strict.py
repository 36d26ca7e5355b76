"""The base model of all parts of a recipe."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]


class Strict(BaseModel):
    """A frozen model that rejects unknown keys, NaN and silent conversions such as `true` to 1."""

    # With docstrings as descriptions, the reference of recipes and their JSON schema are made of the schema itself.
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
