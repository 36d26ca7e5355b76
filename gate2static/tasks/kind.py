"""The kind of a task: its loss, its metrics, and the values of a target that count."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torchmetrics import Metric


def everything(target: Tensor) -> Tensor:
    """Returns a mask for a target whose values are all valid."""
    return torch.ones_like(target, dtype=torch.bool)


def as_it_is(output: Tensor) -> Tensor:
    """Returns the output of a kind whose outputs and targets are the same quantity."""
    return output


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The loss and the metrics of all tasks of one kind.

    `metrics` imports torchmetrics when it is called, because the import takes seconds and pruning needs no metrics.
    """

    metric_name: str
    """The name of the main metric, which is the first of `metrics`."""
    higher_is_better: bool
    """Whether a higher value of the main metric is better."""
    loss: Callable[..., Tensor]
    """Maps (output, target) to a scalar: the mean over all valid values of a batch, and 0 without valid values."""
    prepare: Callable[[Tensor, Tensor], tuple[Tensor, ...]]
    """Maps (output, target) to the tensors that update every metric: valid values only, along the first dimension."""
    metrics: "Callable[[int], dict[str, Metric]]"
    """Returns new metrics by name, the main metric first, for a number of outputs."""
    dense: bool
    """Whether the head predicts a map instead of a class or attributes."""
    valid: Callable[[Tensor], Tensor] = everything
    """Returns a boolean mask of the target values that count in the loss, with one entry per independent value."""
    weighs_by_mean: bool = False
    """Whether the loss takes the mean of the whole batch's valid targets as third argument; without it, the loss uses
    the mean of the targets that it is given."""
    labelled: bool = False
    """Whether targets are class numbers, (N, ...) for outputs (N, C, ...); other targets have the outputs' shape."""
    soften: Callable[[Tensor], Tensor] = as_it_is
    """Maps a network's raw outputs to targets for another network's loss; not used where targets are class numbers."""
    errors: frozenset[str] = frozenset()
    """The metrics of which a lower value is better."""
    activation: Literal["softmax", "sigmoid", "unit length", "none"] = "none"
    """What makes a prediction of a network's raw outputs, along their channels."""
    unit: str | None = None
    """The unit of the prediction's numbers, where they have one and the data set names no other."""
    variant_of: str | None = None
    """The name of the kind whose targets this kind uses with another loss."""


def mean_over(valid: Tensor, values: Tensor) -> Tensor:
    """Returns the mean of the valid values; 0 with a gradient of 0 where no value is valid.

    Args:
        valid: A boolean mask that broadcasts to the shape of `values`.
        values: The values to average.
    """
    valid = valid.expand_as(values)
    return values.where(valid, 0).sum() / valid.sum().clamp(min=1)
