"""The square root of a Gramian, which turns quadratic forms into squared lengths."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def square_root(gramian: Tensor) -> NDArray[np.float64]:
    """Returns the symmetric R with R R = G, (T, T); eigenvalues that rounding made negative count as 0."""
    values, vectors = np.linalg.eigh(gramian.numpy())
    root: NDArray[np.float64] = (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T
    return root
