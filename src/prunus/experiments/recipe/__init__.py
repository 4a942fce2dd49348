"""A strict, versioned YAML file in; a checked `Recipe` out, or an error with file, line and key."""

from prunus.experiments.recipe.loading import demo_recipe, load_recipe, override
from prunus.experiments.recipe.schema import Compare, Latency, Recipe
from prunus.pipeline.stage import Stage

__all__ = ["Compare", "Latency", "Recipe", "Stage", "demo_recipe", "load_recipe", "override"]
