"""The stateless aggregators that TorchJD implements."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gate2static.arguments import require_count, require_number
from gate2static.balance.method import GramianMethod, RowsMethod, choice
from gate2static.errors import BalanceError
from gate2static.messages import brief
from gate2static.runtimes.optional import require

if TYPE_CHECKING:
    from torchjd.aggregation import Aggregator


def aggregation() -> Any:
    """Returns the module of TorchJD's aggregators.

    Raises:
        MissingDependencyError: TorchJD is not installed.
    """
    return require("torchjd.aggregation")


class _OfGramian(GramianMethod):
    """A weighting of TorchJD that needs the Gramian alone."""

    def __init__(self, count: int, weighting: Any, *, seed: int = 0) -> None:
        super().__init__(count, seed=seed)
        self._weighting = weighting

    def weights_of_present(self, gramian: Tensor) -> Tensor:
        """Returns TorchJD's weights."""
        with self._own_randomness():
            weights: Tensor = self._weighting(gramian)
        return weights


class PCGrad(_OfGramian):
    """Takes from every gradient what opposes another, in random order, and adds all up (Yu et al. 2020, alg. 1)."""

    def __init__(self, count: int, *, seed: int = 0) -> None:
        super().__init__(count, aggregation().PCGradWeighting(), seed=seed)


class AlignedMTL(_OfGramian):
    """Makes the tasks' gradients orthogonal and of equal length, and adds them up (Senushkin et al. 2023).

    Args:
        count: The number of tasks, T.
        scale_mode: The common length: the `min` singular value, the `median`, or the `rmse` of all.
        seed: Not used.
    """

    def __init__(self, count: int, *, scale_mode: str = "min", seed: int = 0) -> None:
        mode: Any = choice(scale_mode, ("min", "median", "rmse"), name="scale_mode of aligned")
        super().__init__(count, aggregation().AlignedMTLWeighting(scale_mode=mode), seed=seed)

    def weights_of_present(self, gramian: Tensor) -> Tensor:
        """Returns the weights of a sum over the tasks, as in the official code; TorchJD's are those of a mean."""
        return super().weights_of_present(gramian) * len(gramian)


class ImpartialGradients(_OfGramian):
    """IMTL-G: the direction whose projections on all gradients are equal, with weights of sum 1 (Liu et al. 2021)."""

    def __init__(self, count: int, *, seed: int = 0) -> None:
        super().__init__(count, aggregation().IMTLGWeighting(), seed=seed)

    def weights_of_present(self, gramian: Tensor) -> Tensor:
        """Returns TorchJD's weights of the gradients without a unit: its solver's tolerance is absolute."""
        return super().weights_of_present(gramian / gramian.diagonal().mean())


class FairGrad(_OfGramian):
    """The direction of α-fair utilities of the tasks (Ban and Ji 2024); its length depends on the losses' unit.

    Args:
        count: The number of tasks, T.
        alpha: 1 is proportional fairness; towards infinity it is max-min fairness.
        seed: Not used.
    """

    def __init__(self, count: int, *, alpha: float = 1.0, seed: int = 0) -> None:
        number = require_number(alpha, name="alpha of fairgrad", error=BalanceError, least=1e-6)
        super().__init__(count, aggregation().FairGradWeighting(number), seed=seed)


class Krum(_OfGramian):
    """The mean of the gradients that lie closest to the others (Blanchard et al. 2017).

    Args:
        count: The number of tasks, T; at least `outliers` + 3 of them need a gradient.
        outliers: The number of gradients that may be wrong.
        seed: Not used.
    """

    def __init__(self, count: int, *, outliers: int = 0, seed: int = 0) -> None:
        require_count(outliers, name="outliers of krum", error=BalanceError, least=0)
        if count < outliers + 3:
            raise BalanceError(f"krum needs {outliers + 3} tasks for {outliers} outliers, and there are {count}.")
        super().__init__(count, aggregation().KrumWeighting(outliers), seed=seed)
        self._least = outliers + 3

    def weights_of_present(self, gramian: Tensor) -> Tensor:
        """Returns TorchJD's weights; those of the mean where too few tasks have a gradient."""
        if len(gramian) < self._least:
            return torch.full_like(gramian.diagonal(), 1 / len(gramian))
        return super().weights_of_present(gramian)


class OfRows(RowsMethod):
    """An aggregator of TorchJD that needs the rows themselves.

    Args:
        count: The number of tasks, T.
        aggregator: The aggregator. What a stateful one remembers is not in this method's `state_dict`.
        seed: Seeds what it draws.
    """

    def __init__(self, count: int, aggregator: "Aggregator", *, seed: int = 0) -> None:
        super().__init__(count, seed=seed)
        self._aggregator = aggregator

    def aggregate(self, rows: Tensor) -> Tensor:
        """Returns TorchJD's direction.

        Raises:
            BalanceError: TorchJD refuses the rows.
        """
        try:
            with self._own_randomness():
                direction: Tensor = self._aggregator(rows)
        except (RuntimeError, ValueError) as error:
            name = type(self._aggregator).__name__
            raise BalanceError(f"TorchJD's {name} cannot join {len(rows)} gradients: {brief(error)}") from error
        return direction


class ConFIG(OfRows):
    """The direction that has the same angle to all gradients (Liu et al. 2024)."""

    def __init__(self, count: int, *, seed: int = 0) -> None:
        super().__init__(count, aggregation().ConFIG(), seed=seed)

    def aggregate(self, rows: Tensor) -> Tensor:
        """Returns the direction of the gradients that are not zero, which have angles."""
        present = rows[rows.any(dim=1)]
        return super().aggregate(present) if len(present) else torch.zeros_like(rows[0])


class TrimmedMean(OfRows):
    """The mean of every element without its largest and smallest values (Yin et al. 2018); zeros count as values.

    Args:
        count: The number of tasks, T.
        trimmed: Values left out at either end; T must be larger than twice that.
        seed: Not used.
    """

    def __init__(self, count: int, *, trimmed: int = 1, seed: int = 0) -> None:
        require_count(trimmed, name="trimmed of trimmed_mean", error=BalanceError, least=0)
        if count <= 2 * trimmed:
            raise BalanceError(f"trimmed_mean leaves out {2 * trimmed} values of {count}; give trimmed below T/2.")
        super().__init__(count, aggregation().TrimmedMean(trimmed), seed=seed)
