"""`Balance`: the backward pass of a multi-task training step, as a method wants it, in anybody's loop."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gate2static.arguments import described, require_kind
from gate2static.balance import processes
from gate2static.balance.backward_pass import Backward, BackwardPass
from gate2static.balance.direction import Direction, Scale
from gate2static.balance.features import FeatureTap
from gate2static.balance.look_ahead import gradient_of_weights
from gate2static.balance.method import Level, Method, RowsMethod
from gate2static.balance.roads import AtFeatures, AtParameters, Gradients, Road, WithNorms
from gate2static.balance.weighting.auto_lambda import AutoLambda
from gate2static.balance.weighting.gradnorm import GradNorm
from gate2static.errors import BalanceError
from gate2static.messages import brief


class Balance:
    """A multi-task optimisation method at work on a network; `balance` makes one.

    Attributes:
        name: The method's name.
        method: The method, with its state.
        at: Where it takes the tasks' gradients; None where it needs none.
        scale: `sum` where directions get the length, and weights the sum, of plain training; else `method`.
        last_weights: Task -> weight in the last step, of its loss or of its gradient; empty where the direction is no
            weighted sum.
        last_scale: The length of the last direction over that of the sum of the tasks' gradients; for weighted losses,
            the mean weight.
        tap: The cut through the network, where the method works at features.
    """

    def __init__(
        self,
        name: str,
        method: Method,
        model: nn.Module,
        *,
        at: Level | None,
        scale: Scale,
        road: Road,
        direction: Direction | None,
        tap: FeatureTap | None,
        may_lack_paths: bool,
        tasks: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.method = method
        self.at = at
        self.scale = scale
        self.last_weights: dict[str, float] = {}
        self.last_scale = 1.0
        self._model = model
        self._road = road
        self._direction = direction
        self.tap = tap
        self._may_lack_paths = may_lack_paths
        self._tasks = tasks
        # Of the step that is under way, whose batch may come in parts.
        self._weights: Tensor | None = None
        self._losses = torch.zeros(method.count, dtype=torch.float64)

    def backward(
        self,
        losses: Mapping[str, Tensor],
        also: Tensor | None = None,
        *,
        is_last: bool = True,
        backward: Backward | None = None,
        loss_scale: float = 1.0,
    ) -> dict[str, float]:
        """Adds this step's gradients to `.grad` of all parameters: as the method says, where they are shared.

        With several processes, each gives the mean losses of its share, as for DistributedDataParallel; see
        `averages_gradients`.

        Args:
            losses: Task -> its loss, a scalar, in the same order in every step.
            also: Further terms of the loss, such as λ times the sparsity hinge, which no method changes.
            is_last: Whether the step's batch ends here. Give False for all but its last part where a batch is divided
                to save memory; losses of parts add up to that of the batch.
            backward: Runs a backward pass, taking the keywords of `Tensor.backward`; None runs that.
            loss_scale: What `backward` multiplies losses by, as a `GradScaler` does.

        Returns:
            The weights of this step, as in `last_weights`.

        Raises:
            BalanceError: The losses are not of the same tasks as before, one is not finite, a task does not depend on
                the shared part, or the method cannot work on parts.
        """
        try:
            self._backward(losses, also, is_last=is_last, run=BackwardPass(backward, loss_scale))
        except BaseException:
            self._forget_step()
            raise
        finally:
            if self.tap is not None:
                self.tap.clear()
        return dict(self.last_weights)

    def _backward(self, losses: Mapping[str, Tensor], also: Tensor | None, *, is_last: bool, run: BackwardPass) -> None:
        values = self._values(losses)
        if also is not None and not (isinstance(also, Tensor) and also.numel() == 1):
            raise BalanceError(f"also is {described(also)}; allowed is a tensor of one number, or None.")
        if not any(loss.requires_grad for loss in losses.values()):
            raise BalanceError("no loss depends on a parameter; compute them with gradients, outside `torch.no_grad()`")
        if not is_last and (self.method.needs_losses or not self._road.takes_parts):
            raise BalanceError(f"{self.name} needs the whole batch at once, and this is a part; use accumulate: 1")
        if self._weights is None:
            self._weights = self._loss_weights(values)
        self._losses = self._losses + values
        gradients = self._road.go(list(losses.values()), self._weights, also, run)
        self._check_paths(losses, gradients)
        if is_last:
            self._road.end(run)
            self._learn(self._weights)

    def _forget_step(self) -> None:
        """Forgets the step that is under way."""
        self._road.reset()
        self._weights = None
        self._losses = torch.zeros_like(self._losses)

    def step(self, losses_again: Mapping[str, Tensor]) -> None:
        """Tells the method the losses of the same batch after the optimiser's step, which FAMO needs.

        Args:
            losses_again: Task -> its loss, as for `backward`; no gradients are needed.
        """
        self.method.look_back(self._values(losses_again))

    @property
    def averages_gradients(self) -> bool:
        """Whether `backward` averages gradients over the processes itself: run the forward pass below `no_sync()`."""
        return isinstance(self._road, AtParameters | AtFeatures)

    @property
    def needs_losses_again(self) -> bool:
        """Whether `step` is to be called after every step of the optimiser."""
        return self.method.needs_losses_again

    @property
    def needs_look_ahead(self) -> bool:
        """Whether `look_ahead` is to be called before every `backward`."""
        return isinstance(self.method, AutoLambda)

    def look_ahead(
        self, here: Callable[[], Mapping[str, Tensor]], there: Callable[[], Mapping[str, Tensor]], *, lr: float
    ) -> None:
        """Trains the weights of Auto-λ; for other methods there is nothing to do.

        Call it before the step's forward pass, whose graph it would invalidate. Parameters and buffers are as before
        afterwards.

        Args:
            here: Computes the losses of some images of this step, by task.
            there: Computes those of other images.
            lr: The learning rate of the virtual step.
        """
        if isinstance(self.method, AutoLambda):
            numbers = self.method.numbers.detach()
            self.method.descend(gradient_of_weights(self._model, numbers, here, there, lr=lr))

    def end_epoch(self) -> None:
        """Tells the method that an epoch is over, which DWA needs."""
        self.method.end_epoch()

    def state_dict(self) -> dict[str, Any]:
        """Returns all that the method remembers, as tensors and plain values."""
        return self.method.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned, so that training goes on bit for bit.

        Raises:
            BalanceError: The state is that of another method or number of tasks.
        """
        try:
            self.method.load_state_dict(dict(state))
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise BalanceError(
                f"the state does not fit {self.name} of {self.method.count} tasks; load that of the same method"
            ) from error

    def remove(self) -> None:
        """Takes the method's hook off the network, where it works at features."""
        if self.tap is not None:
            self.tap.remove()

    def _values(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Returns the losses of all processes as numbers, (T,) float64 on the CPU, checked."""
        require_kind(losses, Mapping, name="losses", allowed="a dict of scalar tensors by task", error=BalanceError)
        tasks = tuple(losses)
        wanted = ", ".join(self._tasks) or f"{self.method.count} tasks"
        if len(tasks) != self.method.count or (self._tasks and tasks != self._tasks):
            raise BalanceError(f"losses are of {', '.join(tasks) or 'no task'}; this balance is for {wanted}.")
        for task, loss in losses.items():
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                raise BalanceError(f"the loss of {task} is {described(loss)}; allowed is a tensor of one number.")
        values = torch.stack([loss.detach().double().reshape(()) for loss in losses.values()])
        values = processes.mean(values).cpu()
        for task, value in zip(losses, values.tolist(), strict=True):
            if not math.isfinite(value):
                raise BalanceError(f"the loss of {task} is {value}; lower the learning rate, or check its targets.")
        self._tasks = tasks
        return values

    def _loss_weights(self, losses: Tensor) -> Tensor:
        try:
            weights = self.method.weights(losses)
        except ValueError as error:
            raise BalanceError(f"{self.name} cannot weigh the losses {losses.tolist()}: {brief(error)}") from error
        if not bool(weights.isfinite().all()):
            raise BalanceError(f"{self.name} has no weights for the losses {losses.tolist()}; they must be positive")
        if self.scale == "sum":
            weights = weights * (len(weights) / weights.sum())
        return weights

    def _check_paths(self, losses: Mapping[str, Tensor], gradients: Sequence[Gradients]) -> None:
        """Raises a BalanceError where a loss does not depend on the shared part.

        In a gated network that is allowed: a task whose gates are all its own has no path to the shared branch. So is
        a loss that depends on nothing, as that of a batch without a valid target.
        """
        if self._may_lack_paths:
            return
        pairs = zip(losses.items(), gradients, strict=False)
        rows = {task: row for (task, loss), row in pairs if loss.requires_grad}
        without = [task for task, row in rows.items() if all(gradient is None for gradient in row)]
        if without:
            raise BalanceError(
                f"the loss of {', '.join(without)} does not depend on the shared part; add it to `also` instead, or "
                "name another part with `shared`"
            )

    def _learn(self, weights: Tensor) -> None:
        """Lets the method learn from the step that ends, and notes its weights."""
        if isinstance(self.method, GradNorm) and isinstance(self._road, WithNorms):
            self.method.update_by_norms(self._losses, self._road.norms)
        self.method.update(self._losses)
        if self._direction is None:
            self.last_scale = float(weights.mean())
        else:
            self.last_scale = self._direction.length
            if self._direction.weights is not None:
                weights = weights * self._direction.weights
        has_weights = not isinstance(self.method, RowsMethod)
        self.last_weights = dict(zip(self._tasks, weights.tolist(), strict=True)) if has_weights else {}
        self._forget_step()
