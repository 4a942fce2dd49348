"""A plan as something a person reads, compares, edits and hands back."""

from prunus.review.diff import AxisChange, PlanDiff, diff_plans
from prunus.review.edit import Settled, settle
from prunus.review.pricing import with_savings

__all__ = ["AxisChange", "PlanDiff", "Settled", "diff_plans", "settle", "with_savings"]
