"""Ranking similarity, and what it is by chance (Robust Analysis, eq. 9)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gate2static.arguments import require_count
from gate2static.errors import BalanceError
from gate2static.messages import brief

_LEAST = 3


@dataclass(frozen=True, kw_only=True)
class RankingSimilarity:
    """How alike two rankings are, and how alike two random ones are.

    Attributes:
        similarity: The share of ordered pairs on which both agree (eq. 9), in [0, 1]; ½ without any relation.
        folded: max(S, 1 - S), which is what the paper's tables seem to print.
        chance: The mean of `folded` over random rankings.
        p_value: The share of random rankings with at least this `folded`: the probability of such a similarity, or
            dissimilarity, by chance.
        count: The number of things that were ranked.
    """

    similarity: float
    folded: float
    chance: float
    p_value: float
    count: int


def ranking_similarity(
    first: Sequence[float], second: Sequence[float], *, draws: int = 10_000, seed: int = 0
) -> RankingSimilarity:
    """Compares the rankings of the same things by two scores.

    Args:
        first: One score per thing.
        second: Another score per thing, in the same order.
        draws: Random rankings from which the chance level is simulated.
        seed: Seeds them.

    Raises:
        BalanceError: The scores are not as many, fewer than three, or not finite.
    """
    require_count(seed, name="seed", error=BalanceError, least=0)
    try:
        scores = [np.asarray(values, dtype=np.float64) for values in (first, second)]
    except (TypeError, ValueError, RuntimeError) as error:
        raise BalanceError(f"the scores are no lists of numbers: {brief(error)}") from error
    if scores[0].shape != scores[1].shape or scores[0].ndim != 1 or len(scores[0]) < _LEAST:
        sizes = " and ".join(str(list(values.shape)) for values in scores)
        raise BalanceError(f"the scores have the shapes {sizes}; give two lists of one length, three or more")
    if not np.isfinite(scores).all():
        raise BalanceError("a score is not finite; leave out what has no score")
    require_count(draws, name="draws", error=BalanceError)
    orders = [_order(values) for values in scores]
    similarity = _agreement(orders[0], orders[1])
    generator = np.random.default_rng(seed)
    by_chance = np.empty(draws)
    for draw in range(draws):
        shuffled = generator.permutation(len(scores[1]))
        agreement = _agreement(orders[0], orders[1][np.ix_(shuffled, shuffled)])
        by_chance[draw] = max(agreement, 1 - agreement)
    folded = max(similarity, 1 - similarity)
    return RankingSimilarity(
        similarity=similarity,
        folded=folded,
        chance=float(by_chance.mean()),
        p_value=float((by_chance >= folded - 1e-12).mean()),
        count=len(scores[0]),
    )


def _order(scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns for every ordered pair whether the first thing's score is higher, (things, things)."""
    return scores[:, None] > scores[None, :]


def _agreement(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Returns the share of ordered pairs of different things on which two orders say the same."""
    others = ~np.eye(len(first), dtype=np.bool_)
    return float((first == second)[others].mean())
