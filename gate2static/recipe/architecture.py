"""The part of a recipe that names an architecture to compare with."""

import hashlib
import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gate2static.recipe.option import Option, option_words
from gate2static.recipe.strict import Positive, Strict

_NAME = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
_LONGEST_LABEL = 100
_PATHS = Annotated[tuple[str, ...], Field(max_length=1000)]


class ArchitectureRecipe(Strict):
    """A multi-task architecture made of the recipe's backbone (docs/architectures.md); a bare name has its defaults."""

    name: _NAME
    """The architecture's name."""
    places: Literal["stages", "last blocks", "blocks"] | _PATHS | None = None
    """Where the backbone is cut: at the ends of stages or blocks, or behind modules, by their paths. None is what the
    architecture wants."""
    options: dict[_NAME, Option] = Field(default_factory=dict)
    """The architecture's own options, such as `temperature` of `l_smtl`."""
    macs: Positive | None = None
    """For `branching` without `groups`: the most MACs per sample; values up to 1 are a share of separate networks.
    Which tasks share which stages is then searched at the run's shared network."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        # Strict parsing accepts no list for a tuple behind a validator.
        if isinstance(value, dict) and isinstance(value.get("places"), list):
            return {**value, "places": tuple(value["places"])}
        return value

    retrain: bool = False
    """For `adashare`: policies are drawn from those that the entry without `retrain` learned, which is trained before,
    and a network with these policies is trained from the first weights."""

    @property
    def before(self) -> "ArchitectureRecipe":
        """The entry that `retrain` draws policies from."""
        return self.model_copy(update={"retrain": False})

    @model_validator(mode="after")
    def _only_policies_are_drawn(self) -> "ArchitectureRecipe":
        if self.retrain and (self.name != "adashare" or "skips" in self.options):
            raise ValueError("retrain is for adashare without skips, whose policies it draws; remove retrain or skips")
        return self

    @model_validator(mode="after")
    def _only_trees_are_searched(self) -> "ArchitectureRecipe":
        if self.macs is not None and (self.name != "branching" or "groups" in self.options):
            raise ValueError("macs is for branching without groups, whose tree it limits; remove macs or groups")
        return self

    @property
    def label(self) -> str:
        """The name of the network's row, such as `l_smtl-temperature0.1` or `cross_stitch-at-layer1+layer2`.

        Rows become folders: characters that their names cannot have are `_`, and long names end in a hash.
        """
        parts = option_words(self.options)
        if self.places is not None:
            parts = ["at", self.places if isinstance(self.places, str) else "+".join(self.places), *parts]
        if self.macs is not None:
            parts.append(f"macs{self.macs:g}")
        if self.retrain:
            parts.append("retrained")
        whole = "-".join([self.name, *parts])
        label = re.sub(r"[^A-Za-z0-9._+-]", "_", whole)
        if len(label) <= _LONGEST_LABEL:
            return label
        return f"{label[: _LONGEST_LABEL - 9]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
