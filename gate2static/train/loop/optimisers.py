"""The two optimisers and their learning rates, which are functions of the position and so need no saved state."""

from torch import nn
from torch.optim import SGD, Adam, Optimizer

from gate2static.gates import GatedModel, gate_parameters, weight_parameters
from gate2static.recipe import GatedStageRecipe, ScheduleRecipe, StageRecipe, WeightOptimiserRecipe


def build_optimisers(model: nn.Module, settings: StageRecipe, *, fused: bool = True) -> dict[str, Optimizer]:
    """Adam for the weights and, for a gated model, SGD for α and β (section 4.1 of the paper).

    Heads that have a learning rate of their own are the weights' second group. Without `fused`, gradients can be
    unscaled and clipped before the step.
    """
    weights = weight_parameters(model) if isinstance(model, GatedModel) else list(model.parameters())
    adam = settings.weights
    groups = [weights]
    if adam.heads_lr is not None:
        heads = {id(p) for p in model.get_submodule("heads").parameters()}
        groups = [[p for p in weights if id(p) not in heads], [p for p in weights if id(p) in heads]]
    optimisers: dict[str, Optimizer] = {
        "weights": Adam(
            [{"params": group} for group in groups], lr=adam.lr, weight_decay=adam.weight_decay, fused=fused
        )
    }
    if isinstance(model, GatedModel) and isinstance(settings, GatedStageRecipe):
        sgd = settings.gates
        optimisers["gates"] = SGD(
            gate_parameters(model), lr=sgd.lr, momentum=sgd.momentum, weight_decay=sgd.weight_decay
        )
    return optimisers


def set_learning_rates(optimisers: dict[str, Optimizer], settings: StageRecipe, *, epoch: int, progress: float) -> None:
    """Sets every optimiser's learning rate for the coming step.

    Args:
        optimisers: As `build_optimisers` made them.
        settings: The stage they were made from.
        epoch: Epochs that are complete.
        progress: Share of the stage's steps that are done, 0 to just under 1.
    """
    for name, optimiser in optimisers.items():
        recipe = settings.gates if name == "gates" and isinstance(settings, GatedStageRecipe) else settings.weights
        for index, group in enumerate(optimiser.param_groups):
            of_heads = recipe.heads_lr if index == 1 and isinstance(recipe, WeightOptimiserRecipe) else None
            group["lr"] = (of_heads or recipe.lr) * factor(recipe.schedule, epoch=epoch, progress=progress)


def factor(schedule: ScheduleRecipe, *, epoch: int, progress: float) -> float:
    """What a schedule multiplies the first learning rate by; sections A.1 (`step`) and A.2 (`poly`) of the paper."""
    if schedule.kind == "step":
        return schedule.factor ** (epoch // schedule.step_epochs)
    if schedule.kind == "poly":
        return float((1 - progress) ** schedule.power)
    return 1.0
