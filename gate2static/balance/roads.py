"""The roads of a step's gradients: plain, with norms, at parameters, at features, and with a penalty on gradients.

A road fills `.grad` of all parameters; they differ in what the shared part gets.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gate2static.balance import processes
from gate2static.balance.aggregation.cosreg import CosReg
from gate2static.balance.backward_pass import BackwardPass
from gate2static.balance.direction import Direction
from gate2static.balance.features import FeatureTap
from gate2static.balance.method import gramian_of
from gate2static.balance.shared_parameters import SharedParameters
from gate2static.errors import BalanceError

Gradients = Sequence[Tensor | None]
"""A task's gradients with respect to the parts of what is shared; None where there is no path."""


class Road:
    """The plain road: one backward pass of the weighted sum."""

    @property
    def takes_parts(self) -> bool:
        """Whether a batch may come in parts."""
        return True

    def go(self, losses: Sequence[Tensor], weights: Tensor, also: Tensor | None, run: BackwardPass) -> list[Gradients]:
        """Fills `.grad` for a batch or a part of one.

        Args:
            losses: The tasks' losses.
            weights: Their weights, (T,).
            also: Terms that no method changes.
            run: Runs the backward passes.

        Returns:
            The gradients by task, where the road looked at them.
        """
        run(_total(_weighted(losses, weights), also))
        return []

    def end(self, run: BackwardPass) -> None:
        """Fills what waits for the whole batch."""

    def reset(self) -> None:
        """Forgets the parts of a batch that came to nothing."""


class WithNorms(Road):
    """The plain road, behind a look at the gradients of the losses without their weights (GradNorm).

    Args:
        shared: The shared parameters, of whose last layer the gradients are.
        tap: The shared features that the gradients are taken at instead; None for the parameters.
    """

    def __init__(self, shared: SharedParameters, tap: FeatureTap | None) -> None:
        self._shared = shared
        self._tap = tap
        self._rows: Tensor | None = None
        self.norms = torch.zeros(0)

    @property
    def takes_parts(self) -> bool:
        """Whether a batch may come in parts: the features of several parts are no longer there at the end."""
        return self._tap is None

    def go(self, losses: Sequence[Tensor], weights: Tensor, also: Tensor | None, run: BackwardPass) -> list[Gradients]:
        """Adds the part's gradients to those of the batch, and runs the plain pass."""
        inputs: Sequence[Tensor] = [self._shared.last] if self._tap is None else self._tap.caught()
        gradients = [run.gradients(loss, inputs) for loss in losses]
        rows = matrix_of(gradients, inputs).float() / run.loss_scale
        self._rows = rows if self._rows is None else self._rows + rows
        super().go(losses, weights, also, run)
        return list(gradients)

    def end(self, run: BackwardPass) -> None:
        """Notes the norms of the batch's gradients, (T,)."""
        assert self._rows is not None
        if self._tap is None:
            self.norms = processes.mean(self._rows).double().norm(dim=1).cpu()
        else:
            products = processes.total_of_products(gramian_of(self._rows), self._rows.device)
            self.norms = products.diagonal().sqrt()
        self.reset()

    def reset(self) -> None:
        """Forgets the gradients of the batch's parts."""
        self._rows = None


class AtParameters(Road):
    """One backward pass per task, whose gradients of the shared parameters become one direction.

    Args:
        model: The network.
        shared: Its shared parameters.
        direction: The method's direction.
    """

    def __init__(self, model: nn.Module, shared: SharedParameters, direction: Direction) -> None:
        self._model = model
        self._shared = shared
        self._direction = direction
        self._rows: Tensor | None = None
        self._reached = [False] * len(shared.parameters)

    def go(self, losses: Sequence[Tensor], weights: Tensor, also: Tensor | None, run: BackwardPass) -> list[Gradients]:
        """Adds the part's gradients to the rows of the batch; all other parameters get theirs."""
        before = self._shared.take()
        gradients = []
        for number, loss in enumerate(_weighted(losses, weights)):
            run(loss, retain_graph=number + 1 < len(losses) or also is not None)
            gradients.append(self._shared.take())
        if also is not None and also.requires_grad:
            run(also)
        rows = matrix_of(gradients, self._shared.parameters) / run.loss_scale
        self._rows = rows if self._rows is None else self._rows + rows
        self._shared.add(before)
        by_parameter = zip(self._reached, *gradients, strict=True)
        self._reached = [already or any(g is not None for g in row) for already, *row in by_parameter]
        return list(gradients)

    def end(self, run: BackwardPass) -> None:
        """Gives the shared parameters the direction."""
        rows = self._rows
        assert rows is not None
        if processes.count() > 1:
            rows = processes.mean(rows)
            processes.average_gradients(self._model)
        direction = run.or_skipped(lambda: self._direction.at_parameters(rows), rows)
        self._shared.add_row(direction * run.loss_scale, reached=self._reached)
        self.reset()

    def reset(self) -> None:
        """Forgets the rows of the batch's parts."""
        self._rows = None
        self._reached = [False] * len(self._reached)


class AtFeatures(Road):
    """One pass through every head, and one through what is shared.

    The heads run behind a cut (`FeatureTap`), where the passes of the losses end. Their gradients at the cut become one
    direction, which is passed on through what is shared.

    Args:
        model: The network.
        tap: The cut.
        direction: The method's direction.
    """

    def __init__(self, model: nn.Module, tap: FeatureTap, direction: Direction) -> None:
        self._model = model
        self._tap = tap
        self._direction = direction

    @property
    def takes_parts(self) -> bool:
        """No: the direction must be known before the first backward pass through the shared part."""
        return False

    def go(self, losses: Sequence[Tensor], weights: Tensor, also: Tensor | None, run: BackwardPass) -> list[Gradients]:
        """Fills all gradients."""
        self._tap.caught()
        gradients = []
        for loss in _weighted(losses, weights):
            run(loss, retain_graph=True)  # heads may share layers
            gradients.append(self._tap.take())
        gradients = self._tap.forget_unused(gradients)
        if not self._tap.copies:
            return list(gradients)
        rows = self._tap.rows(gradients, run.loss_scale)
        direction = run.or_skipped(lambda: self._direction.at_features(rows, self._tap), rows)
        if also is not None and also.requires_grad:
            run(also, retain_graph=True)
            direction = direction + self._tap.rows([self._tap.take()], run.loss_scale)[0]
        run.go_on(self._tap.features, self._tap.parts(direction))
        return list(gradients)

    def end(self, run: BackwardPass) -> None:
        """Averages the gradients over the processes: several passes are none of DistributedDataParallel's."""
        if processes.count() > 1:
            processes.average_gradients(self._model)


class WithPenalty(Road):
    """One backward pass of the losses and of a penalty on their gradients, which needs second derivatives (CosReg).

    Args:
        method: The penalty.
        shared: The shared parameters that the gradients are of.
        tap: The shared features that the gradients are taken at instead; None for the parameters.
    """

    def __init__(self, method: CosReg, shared: SharedParameters, tap: FeatureTap | None) -> None:
        self._method = method
        self._shared = shared
        self._tap = tap

    @property
    def takes_parts(self) -> bool:
        """No: the penalty's slopes are those of the whole batch."""
        return False

    def go(self, losses: Sequence[Tensor], weights: Tensor, also: Tensor | None, run: BackwardPass) -> list[Gradients]:
        """Fills all gradients."""
        if not run.is_plain:
            raise BalanceError("cosreg needs second derivatives, which mixed precision has not; use 32-true")
        inputs: Sequence[Tensor] = self._shared.parameters if self._tap is None else self._tap.caught()
        weighted = _weighted(losses, weights)
        gradients = [
            torch.autograd.grad(loss, inputs, create_graph=True, allow_unused=True)
            if loss.requires_grad
            else [None] * len(inputs)
            for loss in weighted
        ]
        rows = matrix_of(gradients, inputs)
        run(_total(weighted, also) + (self._slopes(rows.detach()) * rows).sum())
        return list(gradients)

    def _slopes(self, rows: Tensor) -> Tensor:
        """Returns the penalty's gradient with respect to this process's rows, (T, n).

        The value of ⟨slopes, rows⟩ means nothing; its gradient is that of the penalty on the whole batch.
        """
        if self._tap is None:
            rows = processes.mean(rows)
            gramian = gramian_of(rows)
        else:
            gramian = processes.total_of_products(gramian_of(rows), rows.device)
            rows = rows / processes.count()
        return self._method.slopes(gramian).to(rows) @ rows


def _weighted(losses: Sequence[Tensor], weights: Tensor) -> list[Tensor]:
    return [weight * loss for weight, loss in zip(weights.tolist(), losses, strict=True)]


def _total(weighted: Sequence[Tensor], also: Tensor | None) -> Tensor:
    total = torch.stack(list(weighted)).sum()
    return total if also is None else total + also


def matrix_of(gradients: Sequence[Gradients], inputs: Sequence[Tensor]) -> Tensor:
    """Returns the tasks' gradients as rows, (T, all elements); zeros where there is no path."""
    rows = []
    for row in gradients:
        parts = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, row, strict=True)]
        rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)
