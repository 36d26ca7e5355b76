"""Gates that have not changed for a while are settled for good, and training computes only what the others still need.

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
from gate2static.gates.model import GatedModel
from gate2static.gates.settled.lift import lift_settled

_LIFTS = 4
"""How often, at most, the network is built anew in `after_steps` steps: building it takes as long as a few steps."""
_WORTH_A_LIFT = 0.01
"""Share of all gates that must have settled since."""


@dataclass
class _History:
    """Of one α: which side each gate is on, for how many steps it was there, whether it is settled, and at what."""

    specific: Tensor
    kept: Tensor
    settled: Tensor
    value: Tensor


class GateSettling:
    """Settles the gates of a model while it trains.

    A settled gate's α stays what it is, to the last bit: its gradient is zero, from the hinge too, and what momentum or
    weight decay do to it is undone. Everything else trains as if nothing had happened, except running statistics of
    channels that nobody needs any more. Only training mode is affected. Setting the model's gates (`set_gates`), and
    loading, moving or converting it, unsettles all of them.

    Args:
        gated: the model, which the training loop goes on using. It may be wrapped for distributed training.
        after_steps: for how many steps in a row a gate must have kept its side.

    Raises:
        GateError: `after_steps` is no positive integer.
    """

    def __init__(self, gated: GatedModel, *, after_steps: int) -> None:
        if not isinstance(after_steps, int) or isinstance(after_steps, bool) or after_steps < 1:
            raise GateError(f"after_steps is {after_steps!r}; it counts training steps and must be at least 1.")
        self.gated, self.after_steps = gated, after_steps
        self._steps = 0
        self._encoder: fx.GraphModule | None = None
        # Tied units have one α, which is one entry, under the first of them.
        self._names = {id(gate.alpha): name for name, gate in reversed(gated.gates.items())}
        self._histories = self._begin()
        for name in self._histories:
            if (alpha := gated.gates[name].alpha).requires_grad:
                alpha.register_hook(lambda grad, name=name: self._without_settled(grad, name))

    @property
    def share_settled(self) -> float:
        """The share of gates that are settled, 0 to 1."""
        if not self._holds:
            return 0.0
        settled = torch.cat([h.settled.flatten() for h in self._histories.values()])
        return float(settled.double().mean())

    def step(self) -> None:
        """Counts one training step; call it after the optimisers'."""
        if not self._holds:
            self._histories, self._encoder = self._begin(), None
        self._steps += 1
        for name, history in self._histories.items():
            alpha = self.gated.gates[name].alpha.detach()
            history = self._histories[name] = _History(**{k: v.to(alpha.device) for k, v in vars(history).items()})
            alpha.copy_(torch.where(history.settled, history.value.to(alpha), alpha))
            specific = alpha > 0
            history.kept = torch.where(specific == history.specific, history.kept + 1, torch.zeros_like(history.kept))
            history.specific, history.value = specific, alpha.clone()
        if self._steps % math.ceil(self.after_steps / _LIFTS) == 0:
            ready = {name: h.settled | (h.kept >= self.after_steps) for name, h in self._histories.items()}
            new = torch.cat([(ready[name] & ~h.settled).flatten() for name, h in self._histories.items()])
            if float(new.double().mean()) >= _WORTH_A_LIFT:
                self._settle(ready)

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors; with the model's own state they are all that going on bit for bit needs."""
        return {"steps": self._steps, "gates": {name: dict(vars(h)) for name, h in self._histories.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a `state_dict`; the model must have its own state already.

        Raises:
            CheckpointError: the state is of a model with other gates.
        """
        found = {name: tuple(h["settled"].shape) for name, h in state["gates"].items()}
        expected = {name: tuple(h.settled.shape) for name, h in self._histories.items()}
        if found != expected:
            raise CheckpointError(
                f"the state of settled gates is for {found}, the model's gates are {expected}; go on with the model "
                "that it was saved with."
            )
        self.gated.train_with(None)
        self._encoder = None
        self._steps = state["steps"]
        for name, saved in state["gates"].items():
            device = self.gated.gates[name].alpha.device
            self._histories[name] = _History(**{f.name: saved[f.name].clone().to(device) for f in fields(_History)})
        settled = {name: h.settled for name, h in self._histories.items()}
        if any(mask.any() for mask in settled.values()):
            self._settle(settled)

    @property
    def _holds(self) -> bool:
        """Whether the model still trains with what was built last: setting or loading it ends that."""
        return self.gated.settled_encoder is self._encoder

    def _begin(self) -> dict[str, _History]:
        histories = {}
        for name in self._names.values():
            value = self.gated.gates[name].alpha.detach().clone()
            none = torch.zeros_like(value, dtype=torch.bool)
            histories[name] = _History(specific=value > 0, kept=none.long(), settled=none, value=value)
        return histories

    def _without_settled(self, grad: Tensor, name: str) -> Tensor:
        return grad.masked_fill(self._histories[name].settled.to(grad.device), 0) if self._holds else grad

    def _settle(self, ready: Mapping[str, Tensor]) -> None:
        """Settles these gates and builds the network that trains, unless it would save nothing."""
        gates = self.gated.gates
        by_unit = {n: g.per_channel(ready[self._names[id(g.alpha)]]).cpu().numpy() for n, g in gates.items()}
        encoder = lift_settled(self.gated.program, self.gated.branches, gates, by_unit)
        if encoder is None:
            return
        for name, history in self._histories.items():
            history.settled = ready[name]
        self.gated.train_with(encoder)
        self._encoder = encoder
