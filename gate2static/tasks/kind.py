"""What tasks of one kind have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from torchmetrics import Metric


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Everything that tasks of one kind have in common.

    `metrics` imports torchmetrics when it is called and not before: it takes seconds, and pruning needs none.
    """

    metric_name: str
    """The main metric: the first that `metrics` makes."""
    higher_is_better: bool
    """Whether a higher main metric is a better one."""
    loss: Callable[[Tensor, Tensor], Tensor]
    """(output, target) to a scalar, the mean over all valid values of a batch; 0 where there are none."""
    predict: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """(output, target) to what the metrics compare: valid values only, and never logits that have to be guessed at."""
    metrics: "Callable[[int], dict[str, Metric]]"
    """Empty metrics by name, main metric first, for a number of outputs."""
    dense: bool
    """Whether the head draws a map rather than naming a class."""
