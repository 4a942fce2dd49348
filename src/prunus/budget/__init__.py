"""Who gets how much: limits, and one file an allocator."""

from prunus.budget.allocator import ALLOCATORS, UnitProblem
from prunus.budget.fit import fit_units
from prunus.budget.limits import METRICS, Limit, parse_budget
from prunus.budget.topup import top_up

__all__ = ["ALLOCATORS", "METRICS", "Limit", "UnitProblem", "fit_units", "parse_budget", "top_up"]
