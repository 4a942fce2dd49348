"""A plan as something a person reads, compares, edits and hands back."""

from prunus.analysis.review.diff import AxisChange, PlanDiff, diff_plans
from prunus.analysis.review.edit import Settled, settle
from prunus.analysis.review.pricing import with_savings

__all__ = ["AxisChange", "PlanDiff", "Settled", "diff_plans", "settle", "with_savings"]
