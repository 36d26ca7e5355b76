"""The methods by the names that a recipe uses."""

from collections.abc import Mapping
from typing import Any

from gate2static import plugins
from gate2static.arguments import described
from gate2static.balance.aggregation.cagrad import CAGrad
from gate2static.balance.aggregation.cosreg import CosReg
from gate2static.balance.aggregation.graddrop import GradDrop
from gate2static.balance.aggregation.imtl import Impartial
from gate2static.balance.aggregation.mgda import MGDA
from gate2static.balance.aggregation.sdmgrad import SDMGrad
from gate2static.balance.aggregation.torchjd_aggregators import (
    AlignedMTL,
    ConFIG,
    FairGrad,
    ImpartialGradients,
    Krum,
    PCGrad,
    TrimmedMean,
)
from gate2static.balance.aggregation.upgrad import DualProjection, UPGrad
from gate2static.balance.method import Method
from gate2static.balance.weighting.auto_lambda import AutoLambda
from gate2static.balance.weighting.constant import Mean, Sum
from gate2static.balance.weighting.dwa import DynamicWeightAverage
from gate2static.balance.weighting.famo import Famo
from gate2static.balance.weighting.gradnorm import GradNorm
from gate2static.balance.weighting.imtl_l import ImpartialLosses
from gate2static.balance.weighting.random_weights import RandomGradientWeights, RandomLossWeights
from gate2static.balance.weighting.scalarization import GeometricMean, SmoothTchebycheff
from gate2static.balance.weighting.uncertainty import Uncertainty
from gate2static.balance.with_memory.cr_mogm import SmoothedMGDA
from gate2static.balance.with_memory.db_mtl import DualBalancing
from gate2static.balance.with_memory.excess_mtl import ExcessRisks
from gate2static.balance.with_memory.gradvac import GradVac
from gate2static.balance.with_memory.moco import MoCo
from gate2static.balance.with_memory.modo import MoDo
from gate2static.balance.with_memory.nash import NashMTL
from gate2static.errors import BalanceError
from gate2static.recipe.parsing import suggest, unknown_option

METHODS: dict[str, type[Method]] = {
    "aligned": AlignedMTL,
    "auto_lambda": AutoLambda,
    "cagrad": CAGrad,
    "config": ConFIG,
    "cosreg": CosReg,
    "cr_mogm": SmoothedMGDA,
    "db_mtl": DualBalancing,
    "dualproj": DualProjection,
    "dwa": DynamicWeightAverage,
    "excess_mtl": ExcessRisks,
    "fairgrad": FairGrad,
    "famo": Famo,
    "geometric_mean": GeometricMean,
    "graddrop": GradDrop,
    "gradnorm": GradNorm,
    "gradvac": GradVac,
    "imtl": Impartial,
    "imtl_g": ImpartialGradients,
    "imtl_l": ImpartialLosses,
    "krum": Krum,
    "mean": Mean,
    "mgda": MGDA,
    "moco": MoCo,
    "modo": MoDo,
    "nash": NashMTL,
    "pcgrad": PCGrad,
    "rgw": RandomGradientWeights,
    "rlw": RandomLossWeights,
    "sdmgrad": SDMGrad,
    "stch": SmoothTchebycheff,
    "sum": Sum,
    "trimmed_mean": TrimmedMean,
    "uncertainty": Uncertainty,
    "upgrad": UPGrad,
}


def build_method(name: str, count: int, options: Mapping[str, Any], *, seed: int = 0) -> Method:
    """Builds a method by its name.

    Args:
        name: A key of `METHODS`, or the name of the user's own class, such as `package.module:Method`.
        count: The number of tasks, T.
        options: The method's own options.
        seed: Seeds what the method draws.

    Raises:
        BalanceError: There is no such method or option, or the option's value is not allowed.
    """
    method = find_method(name)
    if problem := unknown_option(name, method, options, given={"count", "seed"}):
        raise BalanceError(problem)
    return method(count, seed=seed, **options)


def find_method(name: str) -> type[Method]:
    """Returns the class of a method.

    Raises:
        BalanceError: There is no such method, or its module may not be imported.
    """
    if name in METHODS:
        return METHODS[name]
    method = plugins.find(name, "methods", where="method", error=BalanceError)
    if method is None:
        allowed = suggest(str(name), [*METHODS, *plugins.installed("methods")])
        raise BalanceError(f"there is no method {name!r}; {allowed}, or your own, as package.module:Class")
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise BalanceError(f"{name} is {described(method)}; allowed is a subclass of gate2static.balance.Method")
    return method
