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
