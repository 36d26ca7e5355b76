"""Need: which channels of which streams the outputs depend on (liveness).

Need is a tensor (S, C) of numbers in [0, 1]. For 0 and 1 it is exact. It accepts probabilities, with products for "and"
and complements for "or", which is what makes the cost differentiable.
"""

import numpy as np
import torch
from torch import Tensor

from gate2static.graphs import Ids
from gate2static.prune.analysis.numbering import Numbering


def either(a: Tensor, b: Tensor) -> Tensor:
    """Returns the probability of a or b; exact for 0 and 1."""
    return a + b - a * b


def any_of(need: Tensor, dim: int) -> Tensor:
    """Returns the probability that at least one along `dim` is needed, keeping the dimension; exact for 0 and 1."""
    return 1 - (1 - need).prod(dim, keepdim=True)


def any_reader(need: Tensor, views: Ids, size: int) -> Tensor:
    """Collects the need of all who read a pool channel.

    Args:
        need: (S, C) Or any other shape, that of `views`.
        views: The pool channel that each of them reads.
        size: The number of pool channels.

    Returns:
        (size,) The probability that at least one reader of the pool channel is needed.
    """
    # P(at least one reader is needed) = 1 - Π (1 - need), over all readers of a pool channel
    index = torch.from_numpy(views).to(need.device).reshape(-1)
    unneeded = torch.ones(size, dtype=need.dtype, device=need.device)
    return 1 - unneeded.scatter_reduce(0, index, (1 - need).reshape(-1), "prod")


def readers(numbering: Numbering, need: Tensor) -> Ids:
    """Returns which streams need each pool channel, of a 0/1 need (S, C): bit s stands for stream s."""
    bits = np.zeros(numbering.size, dtype=np.int64)
    for stream, needed in enumerate((need > 0).cpu().numpy()):
        np.bitwise_or.at(bits, numbering.views[stream][needed], 1 << stream)
    return bits
