"""The end of the search: gates are fixed, on a budget if there is one, and the network that remains trains on."""

from gate2static.budget.meter import Measure
from gate2static.budget.projection import BudgetReport, project_to_budget
from gate2static.errors import BudgetError
from gate2static.gates import GatedModel, gate_parameters, gated_model
from gate2static.gates.settled.settling import GateSettling
from gate2static.recipe import Budget


def freeze_gates(
    gated: GatedModel, budget: Budget | None = None, *, measure: Measure | None = None, target: str = "any"
) -> BudgetReport | None:
    """Fixes all gates as they are decided now, so that the rest of the training is that of the static network.

    A step then costs about what a step of the static network costs, and the weights grow together around decisions that
    no longer change. The gates' α and β get no more gradients. Setting the gates (`set_gates`), loading, moving or
    converting the model ends the savings; call this again after loading a checkpoint. DistributedDataParallel waits for
    the gradients that it has seen when it wrapped the model, so wrap the model anew.

    Args:
        gated: The model in training, changed in place.
        budget: The most that the static network may cost; the gates are first projected onto it
            (`project_to_budget`). None keeps every decision.
        measure: Times static networks, as for `project_to_budget`.
        target: The runtime that timed networks are laid out for, as for `project_to_budget`.

    Returns:
        The report of the projection; None without a budget.

    Raises:
        GateError: The argument is no gated model.
        BudgetError: No setting of the gates meets the budget, or how to time networks is said without one. Nothing is
            frozen then.
        BenchError: The device is unknown, lacks a layer, or fails.
    """
    gated = gated_model(gated)
    if budget is None and (measure is not None or target != "any"):
        raise BudgetError("measure= and target= are for a budget, and there is none; give a budget, or leave them out.")
    report = project_to_budget(gated, budget, measure=measure, target=target) if budget is not None else None
    for parameter in gate_parameters(gated):
        parameter.requires_grad_(False)
        parameter.grad = None
    GateSettling(gated, after_steps=1).settle_all()
    return report
