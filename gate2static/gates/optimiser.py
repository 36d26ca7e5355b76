"""An optimiser for gates whose λ means the same for every network, number of tasks and length of training.

The paper moves α by SGD on the sum of the tasks' losses and the hinge (eq. 5). There, the step of an α depends on the
number of tasks, layers and channels, and on the number of steps, so that a useful λ lies anywhere from 0.01 to 400.
Here both pushes have a unit: the tasks' gradient is divided by its root mean square over all gates, and λ is the push
of sparsity in that unit. A gate that is pushed by 1 in every step travels a distance of 1 in the whole search.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from gate2static.arguments import require_count, require_kind, require_number
from gate2static.errors import GateError
from gate2static.gates.channel_gate import Gate
from gate2static.gates.model import GatedModel, gate_parameters, gated_model, weight_parameters

SPARSITY_WEIGHT = 0.3
"""The default λ: above what most gates gain by their own channel, below what the best gain."""
_MEMORY_STEPS = 100
"""The steps over which the mean square of the tasks' gradient is averaged."""


class GateOptimiser(Optimizer):
    """Moves the gate logits α and the mixing logits β of a model; the loss needs no sparsity term.

    Per step, with g the gradient of the tasks' losses and rms(g) its root mean square over all gates and recent steps:

        α ← α − lr (g / rms(g) + λ [share_t > τ_t])        β ← β − lr g / rms(g)        lr = 1 / steps

    share_t is the share of the gated channels that task t has of its own. Sparsity closes no gate that would bring it
    below τ_t; the task's own gradient may. Other than in eq. 5, λ is no part of the loss, as weight decay is none in
    AdamW.

    Gates without a gradient, such as frozen ones, stay where they are. Learning rate schedulers, gradient scalers,
    `state_dict` and `load_state_dict` work as for any optimiser of torch; a scaler's `step` wants gradients, so leave
    it out for frozen gates.

    Args:
        gated: The model. It may be wrapped for distributed training, and must be on its device already.
        steps: The number of steps of the search: how often `step` will be called before the gates are frozen.
        sparsity_weight: λ, in units of the typical push of the tasks. From 0.01 to 1 it spans everything from nearly
            all channels private to nearly none.
        targets: τ, the share of channels that a task may keep private, between 0 and 1: one number, or task -> number.

    Attributes:
        sparsity_weights: Task -> λ; they may be changed between steps.

    Raises:
        GateError: The model is no gated model, or a number is not in its range.
    """

    def __init__(
        self,
        gated: GatedModel,
        *,
        steps: int,
        sparsity_weight: float = SPARSITY_WEIGHT,
        targets: float | Mapping[str, float] = 0.0,
    ) -> None:
        gated = gated_model(gated)
        require_count(steps, name="steps", error=GateError)
        weight = require_number(sparsity_weight, name="sparsity_weight", least=0, error=GateError)
        self.sparsity_weights = dict.fromkeys(gated.tasks, weight)
        self.targets = _by_task(targets, gated.tasks)
        self._tasks = gated.tasks
        self._gates: list[Gate] = list(gated.gates.values())
        alphas = {id(gate.alpha) for gate in self._gates}
        parameters = gate_parameters(gated)
        groups = [
            {"params": [p for p in parameters if id(p) in alphas]},
            {"params": [p for p in parameters if id(p) not in alphas]},
        ]
        super().__init__(groups, {"lr": 1 / steps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Moves all gates by one step; call it after `backward`.

        Args:
            closure: Computes the loss again, as for any optimiser.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        alphas, betas = self.param_groups
        self._move(betas)
        before = {p: p.detach().clone() for p in alphas["params"] if p.grad is not None}
        if not before:
            return loss
        self._move(alphas)
        # Behind the tasks' own step: what they close is not left for sparsity to close.
        excess = self._excess()
        by_task = [self.sparsity_weights[task] for task in self._tasks]
        weights = torch.tensor(by_task, dtype=excess.dtype, device=excess.device)
        push = (alphas["lr"] * weights * (excess > 0))[:, None]  # (T, 1)
        for alpha in before:
            alpha -= push.to(alpha.dtype)
        self._reopen(before, excess, push)
        return loss

    def _move(self, group: dict[str, Any]) -> None:
        """Moves the logits of one group against their gradient, which is brought to a mean square of 1."""
        moved = [p for p in group["params"] if p.grad is not None]
        if not moved:
            return
        total = torch.stack([p.grad.double().square().sum() for p in moved]).sum()
        square = total / sum(p.numel() for p in moved)
        # Kept with the first logit, where `state_dict` and a move to another device find it.
        state = self.state[moved[0]]
        state["steps"] = state.get("steps", 0) + 1
        mean = state["rms"].double().square() if "rms" in state else torch.zeros_like(square)
        mean = mean + (square - mean) / min(state["steps"], _MEMORY_STEPS)
        # In the logits' dtype, which is what `load_state_dict` would make of it; the root, since squares underflow.
        state["rms"] = mean.sqrt().to(moved[0].dtype)
        rms = state["rms"].double().clamp(min=torch.finfo(torch.float64).tiny)
        for p in moved:
            p -= (group["lr"] * p.grad.double() / rms).to(p.dtype)

    def _excess(self) -> Tensor:
        """Returns by how many channels each task is above its target, (T,)."""
        decisions = torch.cat([gate.decisions() for gate in self._gates], dim=1)  # (T, channels of all units)
        allowed = torch.tensor(self.targets, dtype=torch.float64, device=decisions.device) * decisions.shape[1]
        return decisions.double().sum(1) - allowed

    def _reopen(self, before: Mapping[Tensor, Tensor], excess: Tensor, push: Tensor) -> None:
        """Opens gates again that sparsity closed although the task was not that far above its target."""
        widths = {id(gate.alpha): 0 for gate in self._gates}
        for gate in self._gates:
            widths[id(gate.alpha)] += gate.channels
        flat = torch.cat([alpha.detach() for alpha in before], dim=1)  # (T, gates)
        was_open = torch.cat([old > 0 for old in before.values()], dim=1)
        # By the tasks' gradient alone these gates would have stayed open.
        closed = was_open & (flat <= 0) & (flat + push > 0)
        channels = torch.cat([_channels_per_gate(alpha, widths[id(alpha)]) for alpha in before], dim=1)
        order = flat.argsort(dim=1)  # the most certain first
        closing = torch.where(closed, channels, 0.0).gather(1, order).cumsum(1)
        too_many = (closing > excess[:, None]) & closed.gather(1, order)
        reopened = torch.zeros_like(closed).scatter(1, order, too_many)
        result = torch.where(reopened, torch.full_like(flat, torch.finfo(flat.dtype).eps), flat)
        for alpha, part in zip(before, result.split([alpha.shape[1] for alpha in before], dim=1), strict=True):
            alpha.copy_(part)


def _channels_per_gate(alpha: Tensor, channels: int) -> Tensor:
    """Returns how many channels each gate of an α stands for on average, (T, gates)."""
    return torch.full_like(alpha, channels / alpha.shape[1], dtype=torch.float64)


def _by_task(targets: float | Mapping[str, float], tasks: tuple[str, ...]) -> list[float]:
    """Returns the targets in the order of the tasks."""
    if not isinstance(targets, Mapping):
        targets = dict.fromkeys(tasks, targets)
    require_kind(targets, Mapping, name="targets", allowed="a number, or a dict from task to one", error=GateError)
    if set(targets) != set(tasks):
        raise GateError(
            f"targets are given for {sorted(map(str, targets))}, the model's tasks are {sorted(tasks)}; give one "
            "number, or one to each task."
        )
    return [
        require_number(targets[task], name=f"the target of {task}", least=0, most=1, error=GateError) for task in tasks
    ]


class Optimisers(NamedTuple):
    """The two optimisers of a gated model.

    Attributes:
        weights: Adam for the branches and heads.
        gates: The optimiser of α and β.
    """

    weights: Adam
    gates: GateOptimiser

    def zero_grad(self) -> None:
        """Clears all gradients."""
        for optimiser in self:
            optimiser.zero_grad()

    def step(self) -> None:
        """Makes one step of both."""
        for optimiser in self:
            optimiser.step()


def optimisers(
    gated: GatedModel,
    *,
    lr: float,
    steps: int,
    weight_decay: float = 0.0,
    sparsity_weight: float = SPARSITY_WEIGHT,
    targets: float | Mapping[str, float] = 0.0,
) -> Optimisers:
    """Makes the two optimisers of a gated model: Adam for its weights, `GateOptimiser` for its gates.

    Args:
        gated: The model, on its device.
        lr: Adam's learning rate.
        steps: The number of steps before the gates are frozen.
        weight_decay: Adam's weight decay.
        sparsity_weight: λ, as for `GateOptimiser`.
        targets: τ, as for `GateOptimiser`.

    Raises:
        GateError: The model is no gated model, or a number is not in its range.
    """
    require_number(lr, name="lr", least=0, error=GateError)
    require_number(weight_decay, name="weight_decay", least=0, error=GateError)
    return Optimisers(
        weights=Adam(weight_parameters(gated), lr=lr, weight_decay=weight_decay),
        gates=GateOptimiser(gated, steps=steps, sparsity_weight=sparsity_weight, targets=targets),
    )
