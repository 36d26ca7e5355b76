"""What a step costs with a method, over a plain step of the same network: in turns, in one process, on one thread."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import gate2static as g2s
from gate2static.balance import METHODS
from gate2static.data import describe_data
from gate2static.recipe import load_recipe
from gate2static.tasks import Task, build_tasks
from gate2static.train.networks import build_shared, build_untrained

_RECIPE = Path(__file__).parents[2] / "recipes" / "digits_resnet20.yaml"
_CHANGES = (
    "model.options.width=1.0",
    # The paper's gates, about half of them open: with all gates specific, the shared branch would get no gradient.
    "gating={}",
)
_BATCH = 16
_ROUNDS = 7
_METHODS = ("auto_lambda", "cosreg", "dwa", "famo", "gradnorm", "mgda", "pcgrad")
"""One or two methods per road of the gradients; others on the same road differ by a problem of T numbers."""
_GATED = ("dwa", "pcgrad", "mgda")
"""Methods that are timed in a gated network too: one of losses, two of gradients."""
_LR = 1e-3


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of one method's step.

    Attributes:
        method: The method's name.
        setting: `features` or `parameters`, or `losses` where the method needs no gradients; after `gated, ` for a
            gated network, where `parameters` are those of the shared branch ψ.
        ratio: CPU time over that of a plain step of the same network, the median over rounds.
        low: The lower quartile.
        high: The upper quartile.
    """

    method: str
    setting: str
    ratio: float
    low: float
    high: float


def measure_costs(methods: tuple[str, ...] = _METHODS, *, rounds: int = _ROUNDS) -> list[Cost]:
    """Times some methods in every setting.

    CPU time instead of the clock's, because other programs hardly change it; steps of all methods take turns, so that
    what is left of their influence is alike.
    """
    recipe = load_recipe(_RECIPE, _CHANGES)
    tasks = build_tasks(recipe.tasks, describe_data(recipe.data))
    torch.manual_seed(0)
    shared = build_shared(recipe).train()
    gated = build_untrained(recipe).train()
    costs = []
    for network, settings in ((shared, ("losses", "features", "parameters")), (gated, ("losses", "parameters"))):
        step = _Step(network, tasks)
        named = {
            (method, setting): partial(step.with_method, method, setting)
            for method in methods
            for setting in settings
            if setting in (METHODS[method].levels or ("losses",))
            and method != "sum"
            and (network is shared or method in _GATED)
        }
        for (method, setting), values in _ratios(step.plain, named, rounds).items():
            low, _, high = statistics.quantiles(values, n=4)
            place = setting if network is shared else f"gated, {setting}"
            costs.append(Cost(method=method, setting=place, ratio=statistics.median(values), low=low, high=high))
    return costs


def _ratios(
    plain: Callable[[], None], named: dict[tuple[str, str], Callable[[], None]], rounds: int
) -> dict[tuple[str, str], list[float]]:
    found: dict[tuple[str, str], list[float]] = {key: [] for key in named}
    for number in range(rounds + 1):
        for key, step in named.items():
            # Each beside a plain step of its own.
            ratio = _seconds(step) / _seconds(plain)
            if number > 0:  # the first round warms up
                found[key].append(ratio)
    return found


def _seconds(step: Callable[[], None]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


class _Step:
    """Steps of one network on fixed random images: forward, backward, Adam."""

    def __init__(self, model: nn.Module, tasks: tuple[Task, ...]) -> None:
        self._model = model
        self._tasks = tasks
        self._images = torch.rand(_BATCH, 1, 32, 32)
        self._targets = {
            task.name: (torch.rand(_BATCH, 1, 32, 32) > 0.5).float() if task.kind.dense else torch.arange(_BATCH) % 10
            for task in tasks
        }
        self._optimiser = torch.optim.Adam(model.parameters(), lr=_LR, fused=True)

    def plain(self) -> None:
        """Takes a step on the plain sum."""
        self._optimiser.zero_grad()
        torch.stack(list(self._losses().values())).sum().backward()
        self._optimiser.step()

    def with_method(self, method: str, setting: str) -> None:
        """Takes a step with a method, with all that the method needs besides."""
        balance = self._balance(method, setting)
        if balance.needs_look_ahead:
            balance.look_ahead(
                lambda: self._losses(slice(None, None, 2)), lambda: self._losses(slice(1, None, 2)), lr=_LR
            )
        self._optimiser.zero_grad()
        balance.backward(self._losses())
        self._optimiser.step()
        if balance.needs_losses_again:
            with torch.no_grad():
                balance.step(self._losses())
        balance.remove()

    def _balance(self, method: str, setting: str) -> g2s.Balance:
        # A method at features hooks the backbone, so it is set up for its own step only.
        shared = None if isinstance(self._model, g2s.GatedModel) else self._model.get_submodule("backbone")
        needs = shared if METHODS[method].levels else None
        at = "features" if setting == "features" else None
        return g2s.balance(method, self._model, tasks=[task.name for task in self._tasks], shared=needs, at=at)

    def _losses(self, part: slice = slice(None)) -> dict[str, Tensor]:
        outputs = self._model(self._images[part])
        return {t.name: t.weight * t.loss(outputs[t.name], self._targets[t.name][part]) for t in self._tasks}
