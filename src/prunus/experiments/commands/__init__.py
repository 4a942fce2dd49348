"""A recipe or a plan folder in; a plan folder, a checkpoint folder or a proof out."""

from prunus.experiments.commands.applying import apply_folder
from prunus.experiments.commands.balancing import balance_recipe
from prunus.experiments.commands.folder import PlanFolder, read_plan_folder, write_plan_folder
from prunus.experiments.commands.planning import plan_again, plan_recipe, planned_recipe
from prunus.experiments.commands.pruning import prune_recipe
from prunus.experiments.commands.reviewing import review_folder
from prunus.experiments.commands.verifying import verify_folder

__all__ = [
    "PlanFolder",
    "apply_folder",
    "balance_recipe",
    "plan_again",
    "plan_recipe",
    "planned_recipe",
    "prune_recipe",
    "read_plan_folder",
    "review_folder",
    "verify_folder",
    "write_plan_folder",
]
