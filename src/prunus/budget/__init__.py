"""Budgets: scores, exact prices and limits in, the number of units or weights that each axis or tensor keeps out."""

from prunus.budget.allocation import Allocation, Point, allocate
from prunus.budget.allocator import ALLOCATORS, UnitProblem
from prunus.budget.bounds import Bound, bounds_of
from prunus.budget.fit_units import fit_units
from prunus.budget.limits import METRICS, Limit, Limits, parse_budget
from prunus.budget.problem import unit_problem
from prunus.budget.spend_rest import top_up

__all__ = [
    "ALLOCATORS",
    "METRICS",
    "Allocation",
    "Bound",
    "Limit",
    "Limits",
    "Point",
    "UnitProblem",
    "allocate",
    "bounds_of",
    "fit_units",
    "parse_budget",
    "top_up",
    "unit_problem",
]
