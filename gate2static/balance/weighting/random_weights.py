"""Random weights: RLW on the losses, RGW on the gradients (Lin et al. 2022)."""

import torch
from torch import Tensor

from gate2static.balance.method import GramianMethod, Method


class RandomLossWeights(Method):
    """RLW: the weights are the softmax of T normal numbers, drawn anew for every step; they add up to 1."""

    def weights(self, losses: Tensor) -> Tensor:
        """Returns new random weights."""
        return torch.randn(self.count, generator=self._generator, dtype=losses.dtype).softmax(0)


class RandomGradientWeights(GramianMethod):
    """RGW: random weights of the tasks' gradients; heads are trained by their own losses."""

    def gradient_weights(self, gramian: Tensor) -> Tensor:
        """Returns new random weights."""
        return torch.randn(self.count, generator=self._generator, dtype=gramian.dtype).softmax(0)
