"""YAML to `Recipe`: everything a run is made of, checked before anything runs."""

from gate2static.recipe.budget import Budget
from gate2static.recipe.loading import load_recipe, parse_budget
from gate2static.recipe.parsing import parse
from gate2static.recipe.schema import (
    DataRecipe,
    DecoderRecipe,
    GatedStageRecipe,
    GateOptimiserRecipe,
    GatingRecipe,
    ModelRecipe,
    Recipe,
    ScheduleRecipe,
    StageRecipe,
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
    "GatedStageRecipe",
    "GatingRecipe",
    "ModelRecipe",
    "Recipe",
    "ScheduleRecipe",
    "StageRecipe",
    "Strict",
    "TaskRecipe",
    "TrainingRecipe",
    "WeightOptimiserRecipe",
    "load_recipe",
    "parse",
    "parse_budget",
]
