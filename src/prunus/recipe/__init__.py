"""Recipes: one strict, versioned YAML file that says what to compare."""

from prunus.recipe.loading import demo_recipe, load_recipe, override
from prunus.recipe.schema import Compare, Latency, Recipe
from prunus.recipe.stage import Stage

__all__ = ["Compare", "Latency", "Recipe", "Stage", "demo_recipe", "load_recipe", "override"]
