"""Recipes: the description of a whole run in YAML, checked before anything runs."""

from gate2static.recipe.architecture import ArchitectureRecipe
from gate2static.recipe.balancing import BalancingRecipe
from gate2static.recipe.budget import Budget
from gate2static.recipe.catalogue.bundled import bundled_recipe, bundled_recipes, copy_recipe, headline
from gate2static.recipe.catalogue.reference import recipe_schema, recipe_sections, reference_text
from gate2static.recipe.loading import load_recipe, parse_budget, recipe_at
from gate2static.recipe.parsing import parse
from gate2static.recipe.safe import SafeRecipe
from gate2static.recipe.schema import (
    DataRecipe,
    DecoderRecipe,
    GatingRecipe,
    ModelRecipe,
    Recipe,
    TaskRecipe,
)
from gate2static.recipe.search import SearchRecipe
from gate2static.recipe.strict import Strict
from gate2static.recipe.training import (
    GatedNetworkRecipe,
    GateOptimiserRecipe,
    NetworkRecipe,
    ScheduleRecipe,
    SharedNetworkRecipe,
    TrainingRecipe,
    WeightOptimiserRecipe,
)

__all__ = [
    "ArchitectureRecipe",
    "BalancingRecipe",
    "Budget",
    "DataRecipe",
    "DecoderRecipe",
    "GateOptimiserRecipe",
    "GatedNetworkRecipe",
    "GatingRecipe",
    "ModelRecipe",
    "NetworkRecipe",
    "Recipe",
    "SafeRecipe",
    "ScheduleRecipe",
    "SearchRecipe",
    "SharedNetworkRecipe",
    "Strict",
    "TaskRecipe",
    "TrainingRecipe",
    "WeightOptimiserRecipe",
    "bundled_recipe",
    "bundled_recipes",
    "copy_recipe",
    "headline",
    "load_recipe",
    "parse",
    "parse_budget",
    "recipe_at",
    "recipe_schema",
    "recipe_sections",
    "reference_text",
]
