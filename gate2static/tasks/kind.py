"""What tasks of one kind have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torchmetrics import Metric


def everything(target: Tensor) -> Tensor:
    """All values of a target are valid."""
    return torch.ones_like(target, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Everything that tasks of one kind have in common.

    `metrics` imports torchmetrics when it is called and not before: it takes seconds, and pruning needs none.
    """

    metric_name: str
    """The main metric: the first that `metrics` makes."""
    higher_is_better: bool
    """Whether a higher main metric is a better one."""
    loss: Callable[..., Tensor]
    """(output, target) to a scalar, the mean over all valid values of a batch; 0 where there are none."""
    prepare: Callable[[Tensor, Tensor], tuple[Tensor, ...]]
    """(output, target) to what every metric is updated with: valid values only, along the first dimension."""
    metrics: "Callable[[int], dict[str, Metric]]"
    """Empty metrics by name, main metric first, for a number of outputs."""
    dense: bool
    """Whether the head draws a map rather than naming a class."""
    valid: Callable[[Tensor], Tensor] = everything
    """A target to which of its values count in the loss, bool; of each group that does or does not, one."""
    weighs_by_mean: bool = False
    """Whether the loss depends on the mean of the batch's valid targets, which it takes third; that of what it is given
    where it takes none."""
    labelled: bool = False
    """Whether targets hold class numbers, (N, ...) for outputs (N, C, ...); other targets are shaped like outputs."""
    variant_of: str | None = None
    """The kind whose targets a kind with another loss reads."""


def mean_over(valid: Tensor, values: Tensor) -> Tensor:
    """The mean of those values that are valid; 0, with a gradient of 0, where none is.

    Args:
        valid: bool, of any shape that broadcasts to the values'.
        values: What to average.
    """
    valid = valid.expand_as(values)
    return values.where(valid, 0).sum() / valid.sum().clamp(min=1)
