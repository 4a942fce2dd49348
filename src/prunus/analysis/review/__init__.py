"""A plan in; its decisions priced, its differences to another plan, or the plan with a person's edits out."""

from prunus.analysis.review.diff import AxisChange, PlanDiff, diff_plans
from prunus.analysis.review.edit import Settled, settle
from prunus.analysis.review.pricing import with_savings

__all__ = ["AxisChange", "PlanDiff", "Settled", "diff_plans", "settle", "with_savings"]
