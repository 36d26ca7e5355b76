"""Saliency: which channels the tasks pull apart, estimated at one network that all of them share.

Where all branches start from one network, a channel of its own is worth to a task what the task would change about
the shared one. To first order a task changes a weight by its gradient: a gradient that has the same sign in every batch
is a wish, one that has not is noise. So a channel's score is

    Σ over its weights of  (mean over batches of ∂L_t/∂w)² / (mean over batches of (∂L_t/∂w)²)

the number of its weights that the task wants to change, each counted by the signal's share of its gradient's power.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from gate2static.arguments import described, require_kind
from gate2static.budget.meter import gate_logits
from gate2static.budget.ranking import rank_gates
from gate2static.errors import GateError
from gate2static.gates import GatedModel, gated_model, set_gates
from gate2static.gates.settled.lift import lift_settled

_LEAST_BATCHES = 2
_MATRIX = 2
"""The dimensions from which a parameter has inputs and outputs."""
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

Losses = Callable[[Any, Any], Mapping[str, Tensor]]
"""Maps the model's outputs and a batch's targets to one loss per task."""


def decide_by_saliency(
    gated: GatedModel,
    batches: Iterable[tuple[Any, Any]],
    losses: Losses,
    *,
    prefix: bool = False,
) -> dict[str, Tensor]:
    """Opens every gate, with an α that ranks it by its saliency per MAC: a budget then closes the least salient.

    Call `freeze_gates` or `project_to_budget` then, which pick the best set that fits.

    Args:
        gated: The model, whose branches and heads start from one network; its gates are changed in place.
        batches: Batches of inputs and targets; some fifty show what is signal and what is noise. Inputs are a tensor, a
            tuple of the model's arguments, or a dict of them by name.
        losses: Maps outputs and targets to one loss per task.
        prefix: Whether a layer's private channels are its first ones. Channels that lie together move in one piece, and
            at a common start any choice of as many channels computes the same.

    Returns:
        Unit -> the scores of its gates, (T, groups).

    Raises:
        GateError: The model is no gated model, its branches differ, there are fewer than two batches, or losses are not
            one finite scalar per task. The gates stay as they were.
    """
    gated = gated_model(gated)
    _check_common_start(gated)
    before = {name: alpha.clone() for name, alpha in gate_logits(gated).items()}
    try:
        scores = saliency(gated, batches, losses)
    except BaseException:
        # An error leaves the gates as they were.
        for name, alpha in gate_logits(gated).items():
            alpha.copy_(before[name])
        raise
    if prefix:
        scores = {unit: score.sort(dim=1, descending=True).values for unit, score in scores.items()}
    rank_gates(gated, scores)
    return scores


def saliency(gated: GatedModel, batches: Iterable[tuple[Any, Any]], losses: Losses) -> dict[str, Tensor]:
    """Returns unit -> the scores of its gates, (T, groups); weights, buffers and modes stay what they are.

    Args:
        gated: The model, whose gates are all open afterwards.
        batches: Batches of inputs and targets.
        losses: Maps outputs and targets to one loss per task.

    Raises:
        GateError: There are fewer than two batches, or losses that are not one finite scalar per task.
    """
    set_gates(gated, True)
    owned = {unit: _owned(gated, unit) for unit in gated.gates}
    parameters = _distinct(owned)
    moments = _Moments(parameters)
    with _as_it_was(gated):
        gated.train_with(_separate_encoder(gated))
        gated.train()
        for inputs, targets in batches:
            total = _total(losses(called(gated, inputs), targets), gated.tasks)
            moments.add(torch.autograd.grad(total, parameters, allow_unused=True))
    if moments.count < _LEAST_BATCHES:
        raise GateError(
            f"saliency was given {moments.count} batches; allowed are {_LEAST_BATCHES} or more, some fifty are good: "
            "one batch does not show what is noise."
        )
    signal = moments.signal()
    scores = {}
    for unit, gate in gated.gates.items():
        rows = []
        for layer in owned[unit]:
            row = torch.zeros(gate.channels)
            for parameter in layer.parameters:
                row = row + _per_channel(signal[id(parameter)], gate.channels, layer.is_transposed)
            rows.append(row)
        scores[unit] = _per_group(torch.stack(rows), gate.group_size)
    return scores


@dataclass(frozen=True)
class _Layer:
    """The trained weights of a unit's layer in one branch, and whether their second dimension has the channels."""

    parameters: Sequence[nn.Parameter]
    is_transposed: bool


class _Moments:
    """First and second moments of the gradients of some parameters, over batches."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.count = 0
        self._parameters = parameters
        self._first = [torch.zeros_like(p) for p in parameters]
        self._second = [torch.zeros_like(p) for p in parameters]

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Adds the gradients of a batch; None is a gradient of 0."""
        for first, second, gradient in zip(self._first, self._second, gradients, strict=True):
            if gradient is not None:
                first += gradient
                second += gradient.square()
        self.count += 1

    def signal(self) -> dict[int, Tensor]:
        """Returns, by the parameter's identity, the share of the gradient's power that has the same sign throughout."""
        tiny = torch.finfo(torch.float32).tiny
        return {
            id(parameter): (first / self.count) ** 2 / (second / self.count + tiny)
            for parameter, first, second in zip(self._parameters, self._first, self._second, strict=True)
        }


def _separate_encoder(gated: GatedModel) -> fx.GraphModule | None:
    """Returns the network whose gates are all open: branches get their own task's gradient, and ψ is not computed."""
    everything = {unit: np.ones(gate.decisions().shape, dtype=bool) for unit, gate in gated.gates.items()}
    return lift_settled(gated.program, gated.branches, gated.gates, everything)


@contextmanager
def _as_it_was(gated: GatedModel) -> Iterator[None]:
    """Restores buffers, which batch norms change, the mode of every module, and what trains."""
    buffers = {name: buffer.clone() for name, buffer in gated.named_buffers()}
    modes = {module: module.training for module in gated.modules()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in gated.named_buffers():
                buffer.copy_(buffers[name])
        for module, mode in modes.items():
            module.training = mode
        gated.train_with(None)


def called(model: nn.Module, inputs: Any) -> Any:
    """Calls a model with a batch's inputs: one tensor, a tuple of arguments, or a dict of them by name."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def _total(losses: Any, tasks: Sequence[str]) -> Tensor:
    """Returns the sum of the tasks' losses, checked."""
    checked = checked_losses(losses, tasks)
    return torch.stack([loss.reshape(()) for loss in checked.values()]).sum()


def checked_losses(losses: Any, tasks: Sequence[str]) -> Mapping[str, Tensor]:
    """Returns losses.

    Raises:
        GateError: They are not one finite scalar per task, with a gradient.
    """
    allowed = "a dict from task to a scalar with a gradient"
    require_kind(losses, Mapping, name="what losses returns", allowed=allowed, error=GateError)
    if set(losses) != set(tasks):
        raise GateError(
            f"losses are given for {sorted(map(str, losses))}, the model's tasks are {sorted(tasks)}; give one to each."
        )
    for task, loss in losses.items():
        is_scalar = isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad
        if not is_scalar or not bool(loss.isfinite()):
            found = loss.tolist() if isinstance(loss, Tensor) and loss.numel() == 1 else described(loss)
            raise GateError(f"the loss of {task} is {found}; allowed is a finite scalar with a gradient.")
    checked: Mapping[str, Tensor] = losses
    return checked


def _owned(gated: GatedModel, unit: str) -> list[_Layer]:
    """Returns the weights of a unit's layer, per task; frozen weights change for no task."""
    node = next(node for node in gated.program.graph.nodes if node.name == unit)
    layers = []
    for task in gated.tasks:
        module = gated.branches[task].get_submodule(str(node.target)) if node.op == "call_module" else nn.Identity()
        trained = [p for p in module.parameters() if p.requires_grad]
        layers.append(_Layer(trained, isinstance(module, _TRANSPOSED)))
    return layers


def _distinct(owned: Mapping[str, Sequence[_Layer]]) -> list[nn.Parameter]:
    """Returns all parameters once, in the order of the units.

    Raises:
        GateError: There is none.
    """
    layers = [layer for of_unit in owned.values() for layer in of_unit]
    distinct = {id(p): p for layer in layers for p in layer.parameters}
    if not distinct:
        raise GateError("no gated layer has weights that are trained; set `requires_grad` of those that will be.")
    return list(distinct.values())


def _per_channel(values: Tensor, channels: int, is_transposed: bool) -> Tensor:
    """Adds up a parameter's values by output channel; where no dimension has the channels, they are spread evenly."""
    values = values.detach().float().cpu()
    # Biases have one dimension; of weights, transposed convolutions have their outputs second.
    dims = [0] if values.dim() < _MATRIX else [1] if is_transposed else [0, 1]
    for dim in dims:
        if values.dim() and values.shape[dim] == channels:
            return values.movedim(dim, 0).reshape(channels, -1).sum(1)
    return values.sum().expand(channels) / channels


def _per_group(values: Tensor, group_size: int) -> Tensor:
    """Adds up the channels of each group: (T, C) to (T, groups)."""
    return torch.stack([part.sum(1) for part in values.split(group_size, dim=1)], dim=1)


def _check_common_start(gated: GatedModel) -> None:
    """Raises a GateError unless all branches hold the same weights."""
    shared, *others = [dict(branch.named_parameters()) for branch in reversed(gated.branches.values())]
    for other in others:
        for name, parameter in other.items():
            if not torch.equal(parameter, shared[name]):
                raise GateError(
                    f"the branches differ, in {name} for one; saliency compares the tasks at one network, so gate a "
                    "trained shared network, without task_states."
                )
