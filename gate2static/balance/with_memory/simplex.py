"""Weights of sum 1 that a method carries from step to step."""

import torch
from torch import Tensor, nn


class Shares(nn.Module):
    """One number per task, at least 0 and 1 in all; tasks without gradient neither change nor move the others.

    Args:
        count: The number of tasks, T; each begins with 1/T.
    """

    values: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.full((count,), 1 / count, dtype=torch.float64))

    def of(self, present: Tensor) -> Tensor:
        """Returns the shares of the tasks that a mask (T,) selects, as if there were no others: of sum 1."""
        selected = self.values[present]
        total = selected.sum()
        return selected / total if total > 0 else torch.full_like(selected, 1 / len(selected))

    def set(self, present: Tensor, shares: Tensor) -> None:
        """Divides what the selected tasks have together anew.

        Args:
            present: The mask, (T,).
            shares: Numbers of sum 1, one per selected task.
        """
        self.values[present] = shares.to(self.values) * self.values[present].sum()


def projected(vector: Tensor) -> Tensor:
    """Returns the point of the simplex that is closest to a vector, (n,) -> (n,) (Held et al. 1974)."""
    descending = vector.sort(descending=True).values
    ranks = torch.arange(1, len(vector) + 1, dtype=vector.dtype)
    excess = (descending.cumsum(0) - 1) / ranks
    # The largest coordinates stay above 0: those that lie above what all of them have too much on average.
    support = int((descending > excess).sum())
    return (vector - excess[support - 1]).clamp(min=0)
