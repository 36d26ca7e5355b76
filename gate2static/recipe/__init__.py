"""Recipes: the description of a whole run in YAML, checked before anything runs."""

from gate2static.recipe.budget import Budget
from gate2static.recipe.loading import load_recipe, parse_budget
from gate2static.recipe.parsing import parse
from gate2static.recipe.schema import (
    DataRecipe,
    DecoderRecipe,
    GatedNetworkRecipe,
    GateOptimiserRecipe,
    GatingRecipe,
    ModelRecipe,
    NetworkRecipe,
    Recipe,
    ScheduleRecipe,
    TaskRecipe,
    TrainingRecipe,
    WeightOptimiserRecipe,
)
from gate2static.recipe.strict import Strict

__all__ = [
    "Budget",
    "DataRecipe",
    "DecoderRecipe",
    "GateOptimiserRecipe",
    "GatedNetworkRecipe",
    "GatingRecipe",
    "ModelRecipe",
    "NetworkRecipe",
    "Recipe",
    "ScheduleRecipe",
    "Strict",
    "TaskRecipe",
    "TrainingRecipe",
    "WeightOptimiserRecipe",
    "load_recipe",
    "parse",
    "parse_budget",
]
