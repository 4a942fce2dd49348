"""A model and a request in; a `Plan` or an `Outcome` out, also for budgets that are met by measuring and in stages."""

from prunus.pipeline.planner import plan_for, planned
from prunus.pipeline.prune import apply, plan, prune
from prunus.pipeline.request import Request

__all__ = ["Request", "apply", "plan", "plan_for", "planned", "prune"]
