"""A model and a request in, an `Outcome` out: the order of the stages, budgets that are met by trying, and stages."""

from prunus.pipeline.planner import plan_for, planned
from prunus.pipeline.prune import apply, plan, prune
from prunus.pipeline.request import Request

__all__ = ["Request", "apply", "plan", "plan_for", "planned", "prune"]
