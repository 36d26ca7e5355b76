"""A step whose tasks are balanced by a method, and the measurement of their conflict."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from gate2static.balance import Balance, balance
from gate2static.balance.features import FeatureTap
from gate2static.balance.measuring import measure
from gate2static.balance.method import Method, RowsMethod
from gate2static.balance.registry import build_method, find_method
from gate2static.balance.setting_up import level_problem
from gate2static.errors import BalanceError, RecipeError
from gate2static.gates import GatedModel
from gate2static.recipe import BalancingRecipe, Recipe
from gate2static.train.loop.network_run import NetworkRun

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def check_balancing(recipe: Recipe, balancing: BalancingRecipe, *, where: str, is_gated: bool, processes: int) -> None:
    """Refuses a method that cannot work with a recipe, before anything is trained.

    Args:
        recipe: The recipe.
        balancing: The method.
        where: The key of the recipe that names it.
        is_gated: Whether a gated network is trained with it.
        processes: The number of processes that train together.

    Raises:
        RecipeError: There is no such method or option, or it does not fit the network or the training.
    """
    if balancing.is_plain:
        return
    if len(recipe.tasks) < 2:
        raise RecipeError(f"{where}: a method balances tasks against each other, and there is one; remove it")
    try:
        method = build_method(balancing.method, len(recipe.tasks), balancing.options)
    except BalanceError as error:
        raise RecipeError(f"{where}: {error}") from error
    problem = balancing.at and level_problem(balancing.method, method, balancing.at, is_gated=is_gated)
    if problem:
        raise RecipeError(f"{where}.at: {problem}")
    _check_training(recipe, balancing, method, where=where, is_gated=is_gated)
    if processes > 1 and not _divides(balancing, method, recipe.training.precision):
        raise RecipeError(f"{where}: {balancing.method} trains like this in one process only; set training.devices: 1")


def _check_training(recipe: Recipe, balancing: BalancingRecipe, method: Method, *, where: str, is_gated: bool) -> None:
    """Raises a RecipeError where the settings of the training do not go with a method."""
    training = recipe.training
    needs_whole_batch = balancing.at == "features" or method.needs_losses or balancing.method == "cosreg"
    if training.accumulate > 1 and (needs_whole_batch or balancing.method == "auto_lambda"):
        raise RecipeError(
            f"training.accumulate is {training.accumulate}, and {where} needs the whole batch; use accumulate: 1"
        )
    if training.compile and method.levels:
        raise RecipeError(f"training.compile: {where} goes through the graph once per task; set compile: false")
    if training.precision != "32-true" and balancing.method in ("cosreg", "auto_lambda"):
        raise RecipeError(f"training.precision: {where} takes gradients that mixed precision has not; use 32-true")
    settles = training.gated.settle_steps is not None or training.gated.freeze_at is not None
    if balancing.method == "cosreg" and is_gated and settles:
        raise RecipeError(
            f"{where}: cosreg needs second derivatives, which networks with settled gates have not; remove "
            "training.gated.settle_steps and freeze_at, or use another method"
        )


def _divides(balancing: BalancingRecipe, method: Method, precision: str) -> bool:
    """Returns whether processes may share a batch."""
    if balancing.method == "cosreg":
        return False  # synchronised batch norm has no second derivatives
    if balancing.method == "gradnorm" and precision != "32-true":
        return False  # a pass of the training's own at one layer would count as DistributedDataParallel's
    return balancing.at != "features" or not isinstance(method, RowsMethod) or method.divides_batches


def check_recipe(recipe: Recipe, *, processes: int = 1) -> None:
    """Refuses methods, and measurements of conflict, that cannot work with a recipe.

    Args:
        recipe: The recipe.
        processes: The number of processes that train together.

    Raises:
        RecipeError: As for `check_balancing`.
    """
    training = recipe.training
    named = {f"sweep_balancing.{number}": swept for number, swept in enumerate(recipe.sweep_balancing)}
    for where, balancing in {"training.shared.balancing": training.shared.balancing, **named}.items():
        check_balancing(recipe, balancing, where=where, is_gated=False, processes=processes)
    of_gated = training.gated.balancing
    check_balancing(recipe, of_gated, where="training.gated.balancing", is_gated=True, processes=processes)
    if training.conflict_steps is not None:
        if len(recipe.tasks) < 2:
            raise RecipeError("training.conflict_steps: conflict is between tasks, and there is one; remove it")
        if training.precision != "32-true" or training.compile:
            raise RecipeError("training.conflict_steps needs gradients by task; use precision: 32-true, compile: false")


def build_balance(run: NetworkRun) -> Balance | None:
    """Sets up the method of a network; None for plain training."""
    balancing = run.balancing
    if balancing is None:
        return None
    model = run.model
    return balance(
        balancing.method,
        model,
        tasks=[task.name for task in run.tasks],
        shared=None if isinstance(model, GatedModel) else _shared_module(balancing, model),
        at=balancing.at,
        scale=balancing.scale,
        seed=run.recipe.seed,
        **balancing.options,
    )


def _shared_module(balancing: BalancingRecipe, model: nn.Module) -> nn.Module | None:
    return model.get_submodule("backbone") if find_method(balancing.method).levels else None


class ConflictMeter:
    """Measures conflict in a network's training: GDS and GMS at its shared parameters, FD at its shared features.

    In a gated network the parameters are those of the shared branch ψ, and the features are its last, which the last
    gate reads.

    Args:
        run: The training of a network that several tasks share.
    """

    def __init__(self, run: NetworkRun) -> None:
        model = run.model
        self._run = run
        if isinstance(model, GatedModel):
            shared: nn.Module = model.branches["shared"]
            *_, last = model.gates.values()
            self._tap = FeatureTap(last, cuts=False, of_input=-1)
        else:
            shared = model.get_submodule("backbone")
            self._tap = FeatureTap(shared, cuts=False)
        self._parameters = [parameter for parameter in shared.parameters() if parameter.requires_grad]

    def measure(self, terms: Mapping[str, Tensor], balance: Balance | None) -> dict[str, float]:
        """Returns the measures of one step by name.

        Args:
            terms: Task -> its term of the loss, as of `task_terms`; the measures are of the losses without weights.
            balance: The method at work, whose cut through the network the gradients have to pass.
        """
        tap = self._tap if balance is None or balance.tap is None else balance.tap
        losses = {task.name: terms[task.name] / task.weight for task in self._run.tasks}
        return measure(losses, self._parameters, features=tap.features, copies=tap.copies).values()

    def clear(self) -> None:
        """Forgets the step's features."""
        self._tap.clear()


def backward_of(fabric: "Fabric", precision: str) -> dict[str, Any]:
    """Returns how `Balance.backward` runs its passes: `backward` and `loss_scale`."""
    if precision == "32-true":
        return {}  # torch's own passes
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    backward: Callable[..., None] = fabric.backward
    return {"backward": backward, "loss_scale": 1.0 if scaler is None else scaler.get_scale()}
