"""The networks of a sweep beside its baselines: their rows' names and their recipes."""

from collections.abc import Mapping
from itertools import product

from gate2static.recipe import Recipe

_SHARED = "shared-"
"""The start of the names of shared networks that methods were trained with."""


def is_shared(name: str) -> bool:
    """Returns whether a row is of a shared network."""
    return name == "shared" or name.startswith(_SHARED)


def safe_rows(variants: Mapping[str, Recipe]) -> dict[str, str]:
    """Returns the names of the rows of safe networks -> those of the gated networks that they are made of.

    Args:
        variants: The name of a row -> its recipe.
    """
    return {f"{name}-safe": name for name, variant in variants.items() if variant.safe and not is_shared(name)}


def gated_name(recipe: Recipe) -> str:
    """Returns the name of the row of a recipe's gated network, after λ_s or the budget."""
    return f"gated-{recipe.sparsity_weight:g}" if recipe.budget is None else f"gated-{recipe.budget.label}"


def shared_variants(recipe: Recipe) -> dict[str, Recipe]:
    """Returns the recipe of every shared network of a sweep over methods, by row name."""
    variants = {}
    for balancing in recipe.sweep_balancing:
        shared = recipe.training.shared.model_copy(update={"balancing": balancing})
        training = recipe.training.model_copy(update={"shared": shared})
        variants[f"{_SHARED}{balancing.label}"] = recipe.model_copy(update={"training": training})
    return variants


def gated_variants(recipe: Recipe) -> dict[str, Recipe]:
    """Returns the recipe of every gated network of a sweep, by row name."""
    of_budgets = [recipe.model_copy(update={"budget": budget}) for budget in recipe.sweep_budgets]
    if of_budgets:
        return {gated_name(variant): variant for variant in of_budgets}
    variants = {}
    recipe_targets = [tuple(task.target for task in recipe.tasks)]
    grid = product(recipe.sweep_targets, repeat=len(recipe.tasks)) if recipe.sweep_targets else recipe_targets
    for weight, targets in product(recipe.sweep, grid):
        tasks = tuple(task.model_copy(update={"target": t}) for task, t in zip(recipe.tasks, targets, strict=True))
        swept = (weight, *targets) if recipe.sweep_targets else (weight,)
        name = "-".join(["gated", *(f"{value:g}" for value in swept)])
        variants[name] = recipe.model_copy(update={"sparsity_weight": weight, "tasks": tasks})
    return variants
