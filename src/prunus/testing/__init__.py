"""A member of a role (criterion, method, allocator, …) in; a class of contract tests for pytest out."""

from prunus.testing.allocators import allocator_suite
from prunus.testing.cases import example_analysis, example_data
from prunus.testing.criteria import criterion_suite
from prunus.testing.exporters import Saved, example_result, exporter_suite
from prunus.testing.methods import method_suite
from prunus.testing.repairs import repair_suite
from prunus.testing.rules import rule_suite
from prunus.testing.schedules import schedule_suite
from prunus.testing.suite import ContractError, Suite
from prunus.testing.weight_criteria import weight_criterion_suite

__all__ = [
    "ContractError",
    "Saved",
    "Suite",
    "allocator_suite",
    "criterion_suite",
    "example_analysis",
    "example_data",
    "example_result",
    "exporter_suite",
    "method_suite",
    "repair_suite",
    "rule_suite",
    "schedule_suite",
    "weight_criterion_suite",
]
