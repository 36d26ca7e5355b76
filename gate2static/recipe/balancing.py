"""The part of a recipe that says how the tasks' losses and gradients are balanced."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gate2static.recipe.option import Option, option_words
from gate2static.recipe.strict import Strict

_NAME = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
_METHOD = Annotated[str, Field(pattern=r"^([a-z][a-z0-9_]*|[A-Za-z0-9_.]+:[A-Za-z0-9_]+)$", max_length=200)]


class BalancingRecipe(Strict):
    """A multi-task optimisation method (docs/methods.md); a bare name is the method with its defaults."""

    method: _METHOD = "sum"
    """The method's name; `sum` is plain training, and `package.module:Class` the user's own."""
    at: Literal["parameters", "features"] | None = None
    """Where the tasks' gradients are taken; None is `parameters` for methods that use gradients."""
    scale: Literal["method", "sum"] | None = None
    """`sum` gives the shared part's gradient the length of plain training's, and weights of losses a sum of T; `method`
    leaves both as the method has them. None is `sum` where losses of a gated network are weighed, else `method`."""
    options: dict[_NAME, Option] = Field(default_factory=dict)
    """The method's own options, such as `c` of `cagrad`."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"method": value} if isinstance(value, str) else value

    @property
    def is_plain(self) -> bool:
        """Whether this is plain training."""
        return self == BalancingRecipe()

    @property
    def label(self) -> str:
        """The name of a network's row behind `shared-`, such as `mgda-features`."""
        parts = [self.method.rpartition(":")[2]]
        if self.at == "features":
            parts.append("features")
        if self.scale is not None:
            parts.append(f"{self.scale}-scale")
        return "-".join([*parts, *option_words(self.options)])
