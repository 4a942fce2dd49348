"""What the commands plan, apply and prune do: a recipe in, a folder out."""

from prunus.jobs.applying import Applied, apply_folder
from prunus.jobs.damage import Damage, measure_damage, with_damage
from prunus.jobs.folder import PlanFolder, read_plan_folder, write_plan_folder
from prunus.jobs.levels import LevelRow, evaluate_levels
from prunus.jobs.planning import check_wanted, plan_again, plan_recipe, scored_parent
from prunus.jobs.pruning import Pruned, prune_recipe
from prunus.parent import Parent, parent_of

__all__ = [
    "Applied",
    "Damage",
    "LevelRow",
    "Parent",
    "PlanFolder",
    "Pruned",
    "apply_folder",
    "check_wanted",
    "evaluate_levels",
    "measure_damage",
    "parent_of",
    "plan_again",
    "plan_recipe",
    "prune_recipe",
    "read_plan_folder",
    "scored_parent",
    "with_damage",
    "write_plan_folder",
]
