"""Named settings of gates: the paper's, and those of networks that are to be fast."""

from collections.abc import Mapping
from typing import Any, Literal

Preset = Literal["paper", "deploy"]

PRESETS: Mapping[Preset, Mapping[str, Any]] = {
    "paper": {"group_size": 1, "mixing": "softmax", "gate_init": 0.05, "gate_init_std": 0.05},
    # Whole layers need no moves of channels, so that what is saved in MACs is saved in time (docs/learning_gates.md).
    # Gates start open and alike: `GateOptimiser` divides by the size of gradients, so that none has to be let in front.
    "deploy": {"group_size": "layer", "mixing": "hard", "gate_init": 0.2, "gate_init_std": 0.0},
}
"""Preset -> the arguments of `gate` that it sets; those that are given win."""

_OF_RECIPES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "deploy": {
        "gating": {**PRESETS["deploy"], "branch_init": "initial", "decisions": "saliency"},
        "training.gated": {"freeze_at": 0.0},
        "training.gated.gates": {"kind": "scaled"},
    }
}
"""Preset -> section of a recipe -> the values that it sets; those that are given win."""


def with_preset(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the plain values of a recipe, with those of its preset where it has none.

    What is no mapping where one belongs is left as it is, for the schema to name.
    """
    gating = recipe.get("gating")
    preset = gating.get("preset") if isinstance(gating, dict) else None
    filled = dict(recipe)
    for path, values in _OF_RECIPES.get(preset, {}).items() if isinstance(preset, str) else ():
        section = filled
        for key in path.split("."):
            inner = section.get(key, {})
            if not isinstance(inner, dict):
                return recipe
            section[key] = dict(inner)
            section = section[key]
        for name, value in values.items():
            section.setdefault(name, value)
    return filled
