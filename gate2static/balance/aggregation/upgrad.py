"""UPGrad (Quinton and Rey 2024)."""

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from gate2static.balance.aggregation.square_root import square_root
from gate2static.balance.method import GramianMethod


class DualProjection(GramianMethod):
    """The mean of the gradients, projected to where no loss rises (DualProj; Lopez-Paz and Ranzato 2017)."""

    def weights_of_present(self, gramian: Tensor) -> Tensor:
        """Returns the weights of the projected mean."""
        return _projected(gramian, torch.full((len(gramian),), 1 / len(gramian), dtype=gramian.dtype))


class UPGrad(GramianMethod):
    """The mean of the gradients after every one is projected to where no loss rises."""

    def weights_of_present(self, gramian: Tensor) -> Tensor:
        """Returns the weights of the mean of the projected gradients."""
        rows = torch.eye(len(gramian), dtype=gramian.dtype)
        return torch.stack([_projected(gramian, row) for row in rows]).mean(0)


def _projected(gramian: Tensor, weights: Tensor) -> Tensor:
    """Returns the weights of a weighted sum's projection onto the dual cone of the gradients.

    The projection adds the non-negative u that makes it shortest: min ‖R (w + u)‖ with RᵀR = G, which scipy's
    non-negative least squares solves exactly. TorchJD's needs quadprog, whose licence is the GPL.
    """
    root = square_root(gramian)
    # Without units, because the solver's tolerance is absolute.
    root = root / np.sqrt(np.trace(root @ root))
    added, _ = nnls(root, -root @ weights.numpy())
    return weights + torch.from_numpy(added).to(weights)
