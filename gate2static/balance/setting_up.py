"""`balance`: a method, a network and the part of it that tasks share become a `Balance`."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from gate2static import plugins
from gate2static.arguments import described, require_count, require_kind
from gate2static.balance import processes
from gate2static.balance.aggregation.cosreg import CosReg
from gate2static.balance.aggregation.torchjd_aggregators import OfRows, aggregation
from gate2static.balance.balancing import Balance
from gate2static.balance.direction import Direction, Scale
from gate2static.balance.features import FeatureTap
from gate2static.balance.method import Level, Method, RowsMethod, choice
from gate2static.balance.registry import build_method
from gate2static.balance.roads import AtFeatures, AtParameters, Road, WithNorms, WithPenalty
from gate2static.balance.shared_parameters import SharedParameters
from gate2static.balance.weighting.gradnorm import GradNorm
from gate2static.errors import BalanceError
from gate2static.gates import GatedModel

if TYPE_CHECKING:
    from torchjd.aggregation import Aggregator

_MOST_TASKS = 256


def balance(
    method: "str | Aggregator",
    model: nn.Module,
    *,
    tasks: int | Sequence[str] | None = None,
    shared: nn.Module | Iterable[nn.Parameter] | None = None,
    at: Level | None = None,
    scale: Scale | None = None,
    seed: int = 0,
    **options: Any,
) -> Balance:
    """Sets a multi-task optimisation method up for a network.

    In a gated network the shared part is the shared branch ψ. All-shared gates then train exactly as the shared network
    with that method, and all-specific ones as separate networks.

    Args:
        method: The method's name (docs/methods.md has a table), or an aggregator of TorchJD.
        model: The network that is trained.
        tasks: The tasks or their number; None takes those of a gated model.
        shared: The module that computes the shared features, or the shared parameters; None is the shared branch of a
            gated model. `at="features"` needs the module.
        at: `parameters`, or `features` for one backward pass through the shared part (MGDA-UB, Aligned-MTL-UB, …).
            None is `parameters` for methods that use gradients.
        scale: `method` leaves directions as the method has them; `sum` gives them the length of plain training's, and
            weights of losses a sum of T. None is `sum` where losses are weighed in a gated network, since λ stands
            beside them, and otherwise `method`.
        seed: Seeds what the method draws.
        options: The method's own options.

    Raises:
        BalanceError: An argument does not fit; the message says what does.
        MissingDependencyError: The method is TorchJD's, which is not installed.
    """
    require_kind(model, nn.Module, name="model", allowed="the network that is trained", error=BalanceError)
    allowed = "a method's name, such as 'pcgrad', or an aggregator of TorchJD"
    if not isinstance(method, str):
        require_kind(method, aggregation().Aggregator, name="method", allowed=allowed, error=BalanceError)
    require_count(seed, name="seed", error=BalanceError, least=0, most=2**63 - 1)
    names, count = _tasks(tasks, model)
    if isinstance(method, str):
        # Who writes the call names the code.
        plugins.allow([method])
        name = method
        built = build_method(method, count, options, seed=seed)
    else:
        name = type(method).__name__
        built = OfRows(count, method, seed=seed)
    level = _level(name, built, at, model)
    if scale is None:
        scale = "sum" if level is None and isinstance(model, GatedModel) else "method"
    choice(scale, ("method", "sum"), name="scale")
    tap = _tap(name, built, shared) if level == "features" else None
    parameters = SharedParameters([] if level is None else _shared_parameters(shared, model))
    direction = Direction(built, scale)
    road = _road(built, level, model, parameters, tap, direction)
    return Balance(
        name,
        built,
        model,
        at=level,
        scale=scale,
        road=road,
        direction=direction if isinstance(road, AtFeatures | AtParameters) else None,
        tap=tap,
        may_lack_paths=shared is None,
        tasks=names,
    )


def _tasks(tasks: int | Sequence[str] | None, model: nn.Module) -> tuple[tuple[str, ...], int]:
    """Returns the tasks' names, none where only their number is given, and their number."""
    if tasks is None and isinstance(model, GatedModel):
        tasks = model.tasks
    names: tuple[str, ...] = ()
    if isinstance(tasks, int) and not isinstance(tasks, bool):
        count = tasks
    else:
        names = tuple(tasks) if isinstance(tasks, list | tuple) else ()
        count = len(names)
    if not 1 <= count <= _MOST_TASKS or not all(isinstance(name, str) for name in names):
        raise BalanceError(f"tasks is {described(tasks)}; give a list of names, or a number from 1 to {_MOST_TASKS}.")
    return names, count


def _level(name: str, method: Method, at: Level | None, model: nn.Module) -> Level | None:
    """Returns where a method takes gradients, or raises a BalanceError."""
    if at is None:
        return "parameters" if method.levels else None
    choice(at, ("parameters", "features"), name="at")
    if problem := level_problem(name, method, at, is_gated=isinstance(model, GatedModel)):
        raise BalanceError(problem)
    return at


def level_problem(name: str, method: Method, at: Level, *, is_gated: bool) -> str | None:
    """Returns why a method cannot take gradients at a level, in words; None where it can.

    Args:
        name: The method's name.
        method: The method.
        at: The level.
        is_gated: Whether the network is a gated one.
    """
    if not method.levels:
        return f"{name} weighs losses and needs no gradients; leave `at` out"
    if at == "features" and is_gated:
        return (
            "features are a level of networks with one shared encoder: in a gated network every task reads features of "
            "its own, whose gradients never conflict; use `at: parameters`, which acts on the shared branch"
        )
    if at not in method.levels:
        return f"{name} remembers gradients, and features belong to other images in every step; use `at: parameters`"
    return None


def _tap(name: str, method: Method, shared: nn.Module | Iterable[nn.Parameter] | None) -> FeatureTap:
    """Cuts the network behind the shared module."""
    if not isinstance(shared, nn.Module):
        raise BalanceError("at: features needs the module that computes the features, such as shared=model.backbone")
    if processes.count() > 1 and isinstance(method, RowsMethod) and not method.divides_batches:
        raise BalanceError(f"{name} at features works in one process; train in one, or use at: parameters")
    return FeatureTap(shared, cuts=not isinstance(method, CosReg | GradNorm))


def _road(
    method: Method,
    level: Level | None,
    model: nn.Module,
    shared: SharedParameters,
    tap: FeatureTap | None,
    direction: Direction,
) -> Road:
    if level is None:
        return Road()
    if isinstance(method, GradNorm):
        return WithNorms(shared, tap)
    if isinstance(method, CosReg):
        return WithPenalty(method, shared, tap)
    return AtParameters(model, shared, direction) if tap is None else AtFeatures(model, tap, direction)


def _shared_parameters(shared: nn.Module | Iterable[nn.Parameter] | None, model: nn.Module) -> list[nn.Parameter]:
    if shared is None:
        if not isinstance(model, GatedModel):
            raise BalanceError("the shared part is not known; give a module or parameters: shared=model.backbone")
        shared = model.branches["shared"]
    allowed = "a module, or a list of parameters"
    require_kind(shared, (nn.Module, Iterable), name="shared", allowed=allowed, error=BalanceError)
    # By identity: a parameter that is named twice would get its gradient twice.
    listed = shared.parameters() if isinstance(shared, nn.Module) else shared
    parameters = list({id(parameter): parameter for parameter in listed}.values())
    for parameter in parameters:
        require_kind(parameter, nn.Parameter, name="shared", allowed=allowed, error=BalanceError)
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise BalanceError("the shared part has no parameter that is trained; name the module that the tasks share")
    return trained
