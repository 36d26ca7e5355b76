"""Settles gates that have not changed for a while, so that training computes only what the others still need.

The paper's training does not pay for dead channels (table 9). Here a channel is given up once its gate has kept its
side for a number of steps.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, fx

from gate2static.errors import CheckpointError, GateError
from gate2static.gates.model import GatedModel, gated_model
from gate2static.gates.settled.lift import lift_settled

_LIFTS = 4
"""How often, at most, the network is built anew in `after_steps` steps: building it takes as long as a few steps."""

_WORTH_A_LIFT = 0.01
"""The share of all gates that must have settled since the last lift."""


@dataclass
class _History:
    """The history of the gates of one α; the names of the fields are keys of checkpoints.

    Attributes:
        specific: The side of each gate; True is task-specific.
        kept: The number of steps for which each gate has kept its side.
        settled: The gates that are settled.
        value: The logit of each gate after the last step, to which settled gates return.
    """

    specific: Tensor
    kept: Tensor
    settled: Tensor
    value: Tensor


class GateSettling:
    """Settles the gates of a model while it trains.

    A settled gate's α stays what it is, to the last bit: its gradient is zero, from the hinge too, and what momentum or
    weight decay do to it is undone. Everything else trains as if nothing had happened, except running statistics of
    channels that nothing needs any more. Only training mode is affected. Setting the model's gates (`set_gates`), and
    loading, moving or converting it, unsettles all of them.

    Args:
        gated: The model, which the training loop goes on using, or what wraps it for training.
        after_steps: The number of steps in a row for which a gate must have kept its side.

    Raises:
        GateError: The model is no gated one, or `after_steps` is no positive integer.
    """

    def __init__(self, gated: GatedModel, *, after_steps: int) -> None:
        if not isinstance(after_steps, int) or isinstance(after_steps, bool) or after_steps < 1:
            raise GateError(f"after_steps is {after_steps!r}; it counts training steps and must be at least 1.")
        gated = gated_model(gated)
        self.gated = gated
        self.after_steps = after_steps
        self._steps = 0
        self._encoder: fx.GraphModule | None = None
        # Tied units have one α, which is one entry, under the first of them.
        self._names = {id(gate.alpha): name for name, gate in reversed(gated.gates.items())}
        self._histories = self._begin()
        for name in self._histories:
            alpha = gated.gates[name].alpha
            if alpha.requires_grad:
                alpha.register_hook(lambda grad, name=name: self._without_settled(grad, name))

    @property
    def share_settled(self) -> float:
        """The share of gates that are settled, 0 to 1."""
        if not self._holds:
            return 0.0
        settled = torch.cat([history.settled.flatten() for history in self._histories.values()])
        return float(settled.double().mean())

    def step(self) -> None:
        """Counts one training step; call it after the steps of the optimisers."""
        if not self._holds:
            self._histories = self._begin()
            self._encoder = None
        self._steps += 1
        for name in self._histories:
            self._observe(name)
        # Gates settle together, so that the network is not built anew in every step.
        if self._steps % math.ceil(self.after_steps / _LIFTS) == 0:
            self._settle_if_worth_it()

    def settle_all(self) -> None:
        """Settles every gate as it stands, so that from now on the network trains that will be deployed."""
        # The gates may have been set since the last step.
        self._histories = self._begin()
        self._settle({name: torch.ones_like(history.settled) for name, history in self._histories.items()})

    def state_dict(self) -> dict[str, Any]:
        """Returns plain values and tensors, which with the model's own state continue a training bit for bit."""
        return {"steps": self._steps, "gates": {name: dict(vars(h)) for name, h in self._histories.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a `state_dict`; the model must have its own state already.

        Args:
            state: What `state_dict` returned.

        Raises:
            CheckpointError: The state is of a model with other gates.
        """
        shapes = {name: tuple(history["settled"].shape) for name, history in state["gates"].items()}
        expected = {name: tuple(history.settled.shape) for name, history in self._histories.items()}
        if shapes != expected:
            raise CheckpointError(
                f"the state of settled gates is for {shapes}, the model's gates are {expected}; go on with the model "
                "that it was saved with."
            )
        # Until `_settle` has built the network anew, the whole one trains.
        self.gated.train_with(None)
        self._encoder = None
        self._steps = state["steps"]
        for name, saved in state["gates"].items():
            device = self.gated.gates[name].alpha.device
            self._histories[name] = _History(**{f.name: saved[f.name].clone().to(device) for f in fields(_History)})
        settled = {name: history.settled for name, history in self._histories.items()}
        if any(mask.any() for mask in settled.values()):
            self._settle(settled)

    @property
    def _holds(self) -> bool:
        """True while the model trains with what was built last; setting or loading the model ends that."""
        return self.gated.settled_encoder is self._encoder

    def _begin(self) -> dict[str, _History]:
        """Returns new histories, in which no gate is settled.

        Returns:
            Unit -> the history of its α; tied units have one entry, under the first of them.
        """
        histories = {}
        for name in self._names.values():
            value = self.gated.gates[name].alpha.detach().clone()
            nothing = torch.zeros_like(value, dtype=torch.bool)
            histories[name] = _History(specific=value > 0, kept=nothing.long(), settled=nothing, value=value)
        return histories

    def _observe(self, name: str) -> None:
        """Puts settled gates back to their logits, and counts the steps for which the others kept their side.

        Args:
            name: The unit of the gates; of tied units, the first one.
        """
        alpha = self.gated.gates[name].alpha.detach()
        # The model may have moved to another device.
        history = _History(**{key: value.to(alpha.device) for key, value in vars(self._histories[name]).items()})
        self._histories[name] = history
        # Momentum and weight decay move a parameter without a gradient too.
        alpha.copy_(torch.where(history.settled, history.value.to(alpha), alpha))
        specific = alpha > 0
        history.kept = torch.where(specific == history.specific, history.kept + 1, torch.zeros_like(history.kept))
        history.specific = specific
        history.value = alpha.clone()

    def _without_settled(self, grad: Tensor, name: str) -> Tensor:
        """Returns a gradient of α that is zero for settled gates.

        Args:
            grad: (T, groups), the gradient of one α.
            name: The unit of the α; of tied units, the first one.
        """
        return grad.masked_fill(self._histories[name].settled.to(grad.device), 0) if self._holds else grad

    def _settle_if_worth_it(self) -> None:
        """Settles all gates that have kept their side for long enough, if they are enough gates."""
        ready = {}
        new = []
        for name, history in self._histories.items():
            # (T, groups)
            ready[name] = history.settled | (history.kept >= self.after_steps)
            new.append((ready[name] & ~history.settled).flatten())
        if float(torch.cat(new).double().mean()) >= _WORTH_A_LIFT:
            self._settle(ready)

    def _settle(self, ready: Mapping[str, Tensor]) -> None:
        """Settles gates and builds the network that trains, unless that network would save nothing.

        Args:
            ready: Unit -> the gates to settle, shaped like its α; of tied units, the first one.
        """
        gates = self.gated.gates
        by_unit = {}
        for name, gate in gates.items():
            # (T, groups) to (T, C)
            groups = ready[self._names[id(gate.alpha)]]
            by_unit[name] = gate.per_channel(groups).cpu().numpy()
        encoder = lift_settled(self.gated.program, self.gated.branches, gates, by_unit)
        if encoder is None:
            return
        for name, history in self._histories.items():
            history.settled = ready[name]
        # From here on `_holds` is true until the model is set, moved or loaded.
        self.gated.train_with(encoder)
        self._encoder = encoder
