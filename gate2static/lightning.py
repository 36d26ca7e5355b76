"""`GateCallback`: a gated network in a Trainer of Lightning's, with `pip install lightning`.

Nothing else of the package imports this module, so Lightning is needed only where it is used.
"""

from typing import Any

from gate2static.arguments import require_count
from gate2static.budget import BudgetController, freeze_gates
from gate2static.errors import GateError
from gate2static.gates import GatedModel, GateSettling, gate_shares
from gate2static.prune import summary
from gate2static.recipe import Budget
from gate2static.runtimes.optional import require

require("lightning.pytorch")

from lightning.pytorch import Callback, LightningModule, Trainer  # noqa: E402  # only where it is installed


class GateCallback(Callback):
    """Settles, steers, freezes and logs the gates of the one gated network inside a LightningModule.

    Steps are optimiser steps: batches that only accumulate gradients do not count, and several optimisers that step for
    one batch count once. The state is part of Lightning's checkpoints, so a resumed training goes on where it stopped.

    Args:
        settle_after: Gates that kept their side for so many steps are settled; None for never.
        freeze_at: The step after which all gates are frozen; None for never. In one process only, since
            DistributedDataParallel would wait for the gradients of frozen gates.
        budget: The most that the network may cost; the gates are projected onto it before they are frozen.
        controller: Steers λ; the module adds `controller.penalty(…)` to its loss. The callback calls `step`.
        log: Whether each epoch logs `gates/own/<task>`, the share of task-specific channels, and `gates/static_macs`.

    Raises:
        GateError: A number of steps is not positive, or there is a budget without `freeze_at`.
    """

    def __init__(
        self,
        *,
        settle_after: int | None = None,
        freeze_at: int | None = None,
        budget: Budget | None = None,
        controller: BudgetController | None = None,
        log: bool = True,
    ) -> None:
        super().__init__()
        for name, steps in (("settle_after", settle_after), ("freeze_at", freeze_at)):
            if steps is not None:
                require_count(steps, name=name, error=GateError)
        if budget is not None and freeze_at is None:
            raise GateError("budget= is met when the gates are frozen, and freeze_at= does not say when; give both.")
        self.settle_after = settle_after
        self.freeze_at = freeze_at
        self.budget = budget
        self.controller = controller
        # Lightning puts the module's own `log` in place of an attribute of that name.
        self.logs_gates = log
        self.steps = 0
        self.frozen = False
        self._settling: GateSettling | None = None
        self._settled: dict[str, Any] | None = None
        self._steered = -1  # the step that the controller was last asked for
        self._global_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepares the gates of the module, which has its device and its weights by now.

        Raises:
            GateError: The module has no gated network or several, or gates are to be frozen in several processes.
        """
        gated = gated_inside(pl_module)
        self._global_step = trainer.global_step
        if self.freeze_at is not None and trainer.world_size > 1:
            raise GateError("freeze_at is for one process; with several, use settle_after.")
        if self.frozen:
            freeze_gates(gated)
        elif self.settle_after is not None:
            self._settling = GateSettling(gated, after_steps=self.settle_after)
            if self._settled is not None:
                self._settling.load_state_dict(self._settled)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Lets the controller look before the first batch of every step."""
        if self.controller is not None and not self.frozen and self._steered != self.steps:
            self.controller.step(gated_inside(pl_module))
            self._steered = self.steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts a step, and settles or freezes gates after it."""
        if trainer.global_step == self._global_step:
            return
        self._global_step = trainer.global_step
        self.steps += 1
        if self._settling is not None:
            self._settling.step()
        if self.steps == self.freeze_at:
            freeze_gates(gated_inside(pl_module), self.budget)
            self.frozen = True
            self._settling = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the gates."""
        if not self.logs_gates:
            return
        gated = gated_inside(pl_module)
        values = {f"gates/own/{task}": share for task, share in gate_shares(gated).items()}
        values["gates/static_macs"] = float(summary(gated).total.static_macs)
        if self.controller is not None:
            values["gates/lambda"] = sum(self.controller.weights.values()) / len(self.controller.weights)
        pl_module.log_dict(values)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for a checkpoint, as plain values and tensors."""
        return {
            "steps": self.steps,
            "frozen": self.frozen,
            "controller": None if self.controller is None else self.controller.state_dict(),
            "settling": None if self._settling is None else self._settling.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint; the settled gates follow when the training starts."""
        self.steps = state_dict["steps"]
        self.frozen = state_dict["frozen"]
        self._settled = state_dict["settling"]
        if self.controller is not None and state_dict["controller"] is not None:
            self.controller.load_state_dict(state_dict["controller"])


def gated_inside(module: LightningModule) -> GatedModel:
    """Returns the one gated network inside a module.

    Raises:
        GateError: There is none, or there are several.
    """
    found = {name: inner for name, inner in module.named_modules() if isinstance(inner, GatedModel)}
    if len(found) != 1:
        names = ", ".join(found) or "none"
        raise GateError(f"a LightningModule with GateCallback has one gated network inside, and this one has: {names}.")
    return next(iter(found.values()))
