"""Methods that remember numbers for every element of every task's gradient."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gate2static.balance.method import RowsMethod


class RememberingRows(RowsMethod):
    """A method with a memory of the gradients' size, (T, n), which begins at 0.

    At features there is none: from batch to batch their elements belong to other images.

    Attributes:
        memory: The memory; (T, 0) before the first step.
        steps: The steps so far.
    """

    levels = ("parameters",)
    memory: Tensor
    steps: Tensor

    def __init__(self, count: int, *, seed: int = 0) -> None:
        super().__init__(count, seed=seed)
        self.register_buffer("memory", torch.zeros(count, 0))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def begin_step(self, rows: Tensor) -> None:
        """Counts a step, and makes room for what is remembered of its gradients, (T, n)."""
        if self.memory.shape[1] == 0:
            self.memory = torch.zeros_like(rows)
        self.memory = self.memory.to(rows)
        self.steps += 1

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        # Before the first step the memory has no size, and a state of any size may be loaded.
        saved = state_dict.get(f"{prefix}memory")
        if self.memory.shape[1] == 0 and isinstance(saved, Tensor) and saved.ndim == 2 and len(saved) == self.count:
            self.memory = torch.zeros_like(saved)
        super()._load_from_state_dict(state_dict, prefix, *others)
