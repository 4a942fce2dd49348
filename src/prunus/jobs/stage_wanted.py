"""What a recipe with stages may ask for: one budget, and no key that its stages do not hear of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunus.budget import Limit, parse_budget
from prunus.budget.limits import METRICS
from prunus.errors import OptionError
from prunus.parent import Parent

if TYPE_CHECKING:
    from prunus.recipe import Recipe

_OWN = {
    "criterion": "name the criterion in each stage of units",
    "allocator": "name the allocator in each stage of units",
    "search": "leave it out, or leave the stages out",
    "judge": "leave it out, or leave the stages out",
}
"""What stages say for themselves or know nothing of, and what to do instead."""


def learns(recipe: Recipe) -> bool:
    """Return whether some stage trains: what it learns is not in its plan."""
    return any(stage.recover is not None or stage.steps for stage in recipe.stages)


def check_stages(recipe: Recipe, *, to_apply: bool = False) -> None:
    """Refuse what a recipe with stages cannot mean, before anything is trained.

    Args:
        recipe: any; one without stages passes.
        to_apply: whether the plan alone will be kept, to be applied to the original network.

    Raises:
        OptionError: a key of ``prune`` that a stage says for itself, or stages that train where only a plan is kept.
    """
    if not recipe.stages:
        return
    for key, instead in _OWN.items():
        value = getattr(recipe.prune, key)
        if value != type(recipe.prune).model_fields[key].default:
            raise OptionError(f"prune.{key} is {value!r}, which does not reach into stages; {instead}.")
    if to_apply and learns(recipe):
        raise OptionError(
            "stages that recover or prune along a schedule learn weights, and a plan holds none: applying it would cut "
            "the original ones. Use 'prunus prune', or leave recover, schedule and steps out of the stages."
        )


def stage_budget(recipe: Recipe, parent: Parent) -> Limit:
    """Return the one limit of a recipe with stages.

    Raises:
        OptionError: none or several metrics, one that stages do not count, or weights where zeros save nothing.
        BudgetError: met already.
    """
    check_stages(recipe)
    budget = recipe.prune.budget
    if len(budget) != 1 or next(iter(budget)) not in METRICS or recipe.prune.method is not None:
        raise OptionError(
            f"stages take one budget (of {', '.join(METRICS)}) and no method of their own in the section prune; got "
            f"budget {dict(budget)}, method {recipe.prune.method}. Give prune: {{budget: {{params: 0.3}}}}."
        )
    (limit,) = parse_budget(budget, parent.subject.cost.price())
    if limit.metric != "params" and any(stage.level == "weights" for stage in recipe.stages):
        raise OptionError(
            f"a stage of weights puts weights to zero, which a budget of {limit.metric} does not see; give the budget "
            "as params, or leave that stage out."
        )
    return limit
